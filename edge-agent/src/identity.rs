//! Whether it is the child who says yes (PC-16): a program says so.

use std::process::Stdio;
use std::time::Duration;

use schemas::ids::{PaymentId, PrincipalId};

use crate::program::Program;

/// Exit code. Anything else (0 too, which is how a program ends that was asked for its version) is no.
const IS_CHILD: i32 = 20;

/// Runs the program. Dropping this kills it.
pub(crate) async fn is_child(
    argv: &[String],
    timeout: Duration,
    payment: PaymentId,
    child: &PrincipalId,
) -> bool {
    let value = |name: &str| match name {
        "payment" => Some(payment.to_string()),
        "child" => Some(child.to_string()),
        _ => None,
    };
    let Some(mut program) = Program::start(argv, value, Stdio::null(), "identifies") else { return false };
    let Ok(status) = tokio::time::timeout(timeout, program.wait()).await else {
        tracing::warn!(program = program.name, "the program that identifies took too long");
        return false;
    };
    status.is_ok_and(|status| status.code() == Some(IS_CHILD))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PC-16: only one exit code is a yes.
    #[tokio::test]
    async fn only_exit_code_20_is_the_child() {
        let ask = async |script: &str, timeout_s: u64| {
            let argv = ["/bin/sh", "-c", script, "identify", "{child}", "{payment}"].map(str::to_owned);
            let child = "mia".parse().unwrap();
            is_child(&argv, Duration::from_secs(timeout_s), PaymentId([1; 16]), &child).await
        };
        for (script, expected) in [
            ("test $1 = mia && test $2 = 01010101010101010101010101010101 && exit 20", true),
            ("exit 0", false),
            ("exit 21", false),
            ("kill -9 $$", false),
        ] {
            assert_eq!(ask(script, 30).await, expected, "{script}");
        }
        assert!(!ask("sleep 1000", 0).await, "too long");
        let child = "mia".parse().unwrap();
        let missing = ["/no/such".to_owned()];
        assert!(!is_child(&missing, Duration::from_secs(1), PaymentId([1; 16]), &child).await);
    }
}
