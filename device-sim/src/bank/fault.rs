//! Faults on demand: which call goes wrong, how, and how often.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The calls that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// `PUT /transfers/{key}`
    Transfer,
    /// `GET /transfers/{key}`
    Status,
    /// `PUT /transfers/{key}/cancel`
    Cancel,
    /// `PUT /refunds/{key}`
    Refund,
}

/// What goes wrong. In JSON: `"lose_answer"`, `{"stall_request_ms": 500}`, `{"refuse": {"code": "fraud"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The bank refuses for good (transfers and refunds only).
    Refuse {
        /// The code it gives.
        code: String,
    },
    /// The request reaches the bank this many milliseconds late, even if the caller has hung up by then.
    StallRequestMs(u64),
    /// The bank acts at once; its answer leaves this many milliseconds late.
    StallAnswerMs(u64),
    /// As `StallRequestMs`, until `POST /release`: for tests that need an order and not a duration.
    HoldRequest,
    /// As `StallAnswerMs`, until `POST /release`.
    HoldAnswer,
    /// The bank acts; the connection closes without an answer.
    LoseAnswer,
    /// The connection closes; the bank has seen nothing.
    LoseRequest,
    /// The bank gets the request twice, as through a duplicating network, and must book it once.
    Repeat,
    /// 500 before the bank acted.
    #[serde(rename = "fail_500")]
    Fail500,
}

/// `fault` for the next `times` calls of kind `on`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Which call.
    pub on: Call,
    /// What happens to it.
    pub fault: Fault,
    /// How often; 1 when absent.
    #[serde(default = "once")]
    pub times: u32,
}

fn once() -> u32 {
    1
}

/// Rules, used up in order: a call takes the first rule for its kind.
#[derive(Debug, Default)]
pub(super) struct Faults(VecDeque<FaultRule>);

/// More rules than a test can mean.
const RULES: usize = 10_000;

/// A longer stall is a loss: write that instead.
const STALL_MS: u64 = 3_600_000;

impl Faults {
    /// Replaces the queue, or says which rule makes no sense.
    pub(super) fn replace(&mut self, rules: Vec<FaultRule>) -> Result<(), &'static str> {
        if rules.len() > RULES {
            return Err("at most 10000 rules");
        }
        for rule in &rules {
            match &rule.fault {
                Fault::Refuse { .. } if matches!(rule.on, Call::Status | Call::Cancel) => {
                    return Err("only a transfer or a refund can be refused");
                }
                Fault::Refuse { code } if code.is_empty() || code.len() > 64 => {
                    return Err("a refusal's code has 1 to 64 characters");
                }
                Fault::StallRequestMs(ms) | Fault::StallAnswerMs(ms) if *ms > STALL_MS => {
                    return Err(
                        "a stall lasts at most an hour: to lose a message use lose_request or lose_answer",
                    );
                }
                _ => {}
            }
        }
        self.0 = rules.into_iter().filter(|rule| rule.times > 0).collect();
        Ok(())
    }

    /// The fault for this call, one use less.
    pub(super) fn take(&mut self, call: Call) -> Option<Fault> {
        let index = self.0.iter().position(|rule| rule.on == call)?;
        let rule = self.0.get_mut(index)?;
        let fault = rule.fault.clone();
        rule.times -= 1;
        if rule.times == 0 {
            self.0.remove(index);
        }
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_used_up_in_order_per_call() {
        let text = r#"[{"on":"transfer","fault":"lose_answer","times":2},
            {"on":"refund","fault":{"refuse":{"code":"closed"}}},
            {"on":"transfer","fault":{"stall_answer_ms":5}},
            {"on":"status","fault":"fail_500","times":0}]"#;
        let mut faults = Faults::default();
        faults.replace(serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(faults.take(Call::Transfer), Some(Fault::LoseAnswer));
        assert_eq!(faults.take(Call::Transfer), Some(Fault::LoseAnswer));
        assert_eq!(faults.take(Call::Transfer), Some(Fault::StallAnswerMs(5)));
        assert_eq!(faults.take(Call::Transfer), None);
        assert_eq!(faults.take(Call::Status), None);
        assert_eq!(faults.take(Call::Refund), Some(Fault::Refuse { code: "closed".to_owned() }));
    }

    #[test]
    fn a_refused_status_makes_no_sense() {
        let rule = FaultRule { on: Call::Status, fault: Fault::Refuse { code: "no".to_owned() }, times: 1 };
        assert!(Faults::default().replace(vec![rule]).is_err());
    }
}
