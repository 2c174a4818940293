//! Ordinary clients work: the ones that every newcomer has at hand.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::process::Stdio;

use broker::Listener;
use broker::session::Limits;
use schemas::topic::Kind;
use support::authority::Authority;
use support::{PATIENCE, World, token};
use tokio::process::Command;
use tokio::time::timeout;

const WHO: &str = "acme/chip-7";

fn mosquitto(program: &str, world: &World, version: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &world.address().port().to_string(), "-V", version]);
    command.args(["-u", WHO, "-P", &token(WHO)]).args(arguments);
    command.kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn output(mut command: Command) -> (bool, String) {
    let output = timeout(PATIENCE, command.output()).await.expect("the client hangs").unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs mosquitto-clients"]
async fn mosquitto_pub_is_acknowledged_in_both_versions() {
    for version in ["mqttv311", "mqttv5"] {
        let world = World::start(Limits::default()).await;
        let topic = "ft/acme/chip-7/up/status-request";
        let (ok, text) =
            output(mosquitto("mosquitto_pub", &world, version, &["-q", "1", "-d", "-t", topic, "-m", "x"]))
                .await;
        assert!(ok && text.contains("received PUBACK"), "{version}: {text}");
        assert_eq!(world.broker.stats().publishes_in, 1);
        let (_, text) =
            output(mosquitto("mosquitto_pub", &world, version, &["-P", "wrong", "-t", topic, "-m", "x"]))
                .await;
        assert!(text.to_lowercase().contains("bad user name or password"), "{version}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs mosquitto-clients"]
async fn mosquitto_sub_receives_what_is_owed_in_both_versions_and_with_both_qos() {
    for (version, qos) in [("mqttv311", "0"), ("mqttv311", "1"), ("mqttv5", "0"), ("mqttv5", "1")] {
        let world = World::start(Limits::default()).await;
        world.owe(WHO, Kind::HealthCheck, b"before");
        world.owe(WHO, Kind::PaymentStatus, b"too");
        let filter = "ft/acme/chip-7/down/#";
        let child = mosquitto("mosquitto_sub", &world, version, &["-q", qos, "-t", filter, "-C", "2", "-v"]);
        let (ok, text) = output(child).await;
        let wanted = "ft/acme/chip-7/down/health-check before\nft/acme/chip-7/down/payment-status too\n";
        assert!(ok && text == wanted, "{version} {qos}: {text}");
        let (_, text) =
            output(mosquitto("mosquitto_sub", &world, version, &["-t", "ft/acme/chip-8/down/#", "-W", "2"]))
                .await;
        assert!(text.contains("denied") || text.contains("rejected"), "{version}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs mosquitto-clients"]
async fn mosquitto_works_over_tls_in_both_versions() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let trusted = directory.path().join("authority.pem");
    std::fs::write(&trusted, authority.0.pem()).unwrap();
    let tls = ["-h", "localhost", "--cafile", trusted.to_str().unwrap()];
    for version in ["mqttv311", "mqttv5"] {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::Tls { address, config: authority.tls() };
        let world = World::start_with(|config| config.listeners = vec![listener]).await;
        let topic = "ft/acme/chip-7/up/health-check";
        let publish = [&tls[..], &["-q", "1", "-d", "-t", topic, "-m", "there?"]].concat();
        let (ok, text) = output(mosquitto("mosquitto_pub", &world, version, &publish)).await;
        assert!(ok && text.contains("received PUBACK"), "{version}: {text}");
        let subscribe = [&tls[..], &["-q", "1", "-t", "ft/acme/chip-7/down/#", "-C", "1"]].concat();
        let (ok, text) = output(mosquitto("mosquitto_sub", &world, version, &subscribe)).await;
        assert!(ok && text == "there?\n", "{version}: {text}");
    }
}
