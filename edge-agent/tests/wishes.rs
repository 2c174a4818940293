//! The real agent as a piggy bank with a child that wishes, against the real lane (PC-12).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use schemas::ids::WishId;
use schemas::message::{
    ChildView, ComingAllowances, Down, Goals, PaymentState, ShownResult, ShownResults, ShownWish,
    ShownWishes, Up, WishState,
};
use schemas::time::Timestamp;
use schemas::wire::Text;
use serde_json::Value;
use support::{Cloud, Machine, NOW_MS};

fn list(machine: &Machine, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = std::time::Instant::now() + support::PATIENCE;
    loop {
        let output = machine.call(&["wish", "list", "--json"]);
        if output.status.success() {
            let list = serde_json::from_slice(&output.stdout).unwrap();
            if wanted(&list) {
                return list;
            }
        }
        assert!(std::time::Instant::now() < deadline, "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// What Mia has.
fn view(as_of_ms: u64) -> ChildView {
    ChildView {
        child: "mia".parse().unwrap(),
        available: "5.00 EUR".parse().unwrap(),
        as_of: Timestamp(as_of_ms),
        goals: Goals::default(),
        allowances: ComingAllowances::default(),
        wishes: None,
        results: None,
    }
}

/// PC-12: from the child's words to the wire, and back to what the guardian said; after a restart of the agent too.
#[test]
fn a_wish_is_sent_listed_and_taken_back() {
    let cloud = Cloud::start();
    let machine = Machine::new(&cloud, "piggy-bank");
    let agent = machine.start(|_| {});
    list(&machine, |list| list["wishes"] == serde_json::json!([]));
    let text = String::from_utf8(machine.call(&["wish", "list"]).stdout).unwrap();
    assert!(text.contains("wish send --to"), "{text}");

    let words = "妈妈我想买滑板车";
    let early = machine.call(&["wish", "send", "--to", "mum", words]);
    assert!(String::from_utf8_lossy(&early.stderr).contains("which child uses it"), "{early:?}");
    cloud.owe(Down::ChildView(view(NOW_MS - 1)));
    list(&machine, |list| list["as_of"] == NOW_MS - 1);
    let made = machine.json(&["wish", "send", "--to", "mum", words]);
    let wish: WishId = made["wish"].as_str().unwrap().parse().unwrap();
    let said = cloud.until(|up| match up {
        Up::Wish(said) => Some(said),
        _ => None,
    });
    assert_eq!((said.wish, said.to.as_str(), said.text.as_str()), (wish, "mum", words));
    list(&machine, |list| list["wishes"][0]["standing"] == "sent");

    let shown = ShownWish {
        wish,
        to: "mum".parse().unwrap(),
        text: Text::new(words),
        state: WishState::Declined,
        reason: Some(Text::new("Next\u{1b}[2J year")),
    };
    let result = ShownResult {
        what: Text::new("Lunch"),
        amount: "2.50 EUR".parse().unwrap(),
        state: PaymentState::Settled,
        at: Timestamp(NOW_MS),
    };
    cloud.owe(Down::ChildView(ChildView {
        wishes: Some(ShownWishes::new(vec![shown]).unwrap()),
        results: Some(ShownResults::new(vec![result]).unwrap()),
        ..view(NOW_MS)
    }));
    list(&machine, |list| list["wishes"][0]["state"] == "declined" && list["as_of"] == NOW_MS);
    assert_eq!(agent.terminate(), Some(0));
    let _agent = machine.start(|_| {});
    list(&machine, |list| list["wishes"][0]["reason"] == "Next\u{1b}[2J year");
    let text = String::from_utf8(machine.call(&["wish", "list"]).stdout).unwrap();
    assert!(text.contains("no: “Next [2J year”") && text.contains("as of 20"), "{text}");

    let refused = machine.call(&["wish", "withdraw", &wish.to_string()]);
    assert_eq!(refused.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("can't be taken back"), "{refused:?}");
    let made = machine.json(&["wish", "send", "--to", "mum", "I want a ball"]);
    machine.json(&["wish", "withdraw", made["wish"].as_str().unwrap()]);
    let withdrawn = cloud.until(|up| match up {
        Up::WishWithdraw(withdraw) => Some(withdraw.wish.to_string()),
        _ => None,
    });
    assert_eq!(made["wish"], withdrawn);
    let empty = machine.call(&["wish", "send", "--to", "mum", " "]);
    assert!(String::from_utf8_lossy(&empty.stderr).contains("a wish has words"), "{empty:?}");
}
