//! The real agent as a piggy bank, against the real lane (PC-2, PC-3, PC-4, PC-5).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use schemas::ids::PaymentId;
use schemas::message::{
    Categories, ChildAnswer, Down, PaymentPrompt, PaymentState, PaymentStatus, PromptAnswer, Up,
};
use schemas::time::Timestamp;
use schemas::wire::Text;
use serde_json::Value;
use support::{Agent, Cloud, Machine, NOW_MS};

fn id(number: u8) -> PaymentId {
    PaymentId([number; 16])
}

fn prompt(number: u8, answer_by_ms: u64) -> PaymentPrompt {
    PaymentPrompt {
        payment: id(number),
        child: "mia".parse().unwrap(),
        guardian: "dad".parse().unwrap(),
        payee: Text::new("Canteen"),
        amount: "2.50 EUR".parse().unwrap(),
        ordered: "3.00 EUR".parse().unwrap(),
        categories: Categories::new(vec!["lunch".parse().unwrap()]).unwrap(),
        note: Some(Text::new("Enjoy\u{1b}[2J!")),
        answer_by: Timestamp(answer_by_ms),
        mode: None,
        identify: None,
    }
}

fn in_time(number: u8) -> Down {
    Down::PaymentPrompt(prompt(number, NOW_MS + 600_000))
}

fn result(number: u8, state: PaymentState, text: &str) -> Down {
    Down::PaymentStatus(PaymentStatus {
        payment: id(number),
        state,
        amount: "3.00 EUR".parse().unwrap(),
        paid: "2.50 EUR".parse().unwrap(),
        delivered: 0,
        quantity: 0,
        reason: None,
        text: Text::new(text),
        at: Timestamp(NOW_MS),
    })
}

fn answered(cloud: &Cloud) -> PromptAnswer {
    cloud.until(|up| match up {
        Up::PaymentPrompt(answer) => Some(answer),
        _ => None,
    })
}

/// The same, or nothing for so long.
fn answered_within(cloud: &Cloud, patience: Duration) -> Option<PromptAnswer> {
    let until = Instant::now() + patience;
    loop {
        match cloud.said.recv_timeout(until.saturating_duration_since(Instant::now())).ok()? {
            Up::PaymentPrompt(answer) => return Some(answer),
            _ => continue,
        }
    }
}

fn start(machine: &Machine) -> Agent {
    machine.start(|_| {})
}

/// The list as soon as `wanted` accepts it; the agent may still be starting.
fn list(machine: &Machine, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = std::time::Instant::now() + support::PATIENCE;
    loop {
        let output = machine.call(&["prompt", "list", "--json"]);
        if output.status.success() {
            let list = serde_json::from_slice(&output.stdout).unwrap();
            if wanted(&list) {
                return list;
            }
        }
        assert!(std::time::Instant::now() < deadline, "{}", String::from_utf8_lossy(&output.stdout));
    }
}

fn is_shown(list: &Value, number: u8) -> bool {
    list["prompts"][0]["shown"] == true && list["prompts"][0]["payment"] == id(number).to_string()
}

/// PC-2, PC-3, PC-4, PC-5: from the prompt on the wire to the answer on the wire, and what became of it.
#[test]
fn a_prompt_is_listed_answered_and_its_result_told() {
    let cloud = Cloud::start();
    let machine = Machine::new(&cloud, "piggy-bank");
    let agent = start(&machine);
    cloud.owe(in_time(1));
    list(&machine, |list| is_shown(list, 1));
    cloud.until_nothing_is_owed();
    let text = String::from_utf8(machine.call(&["prompt", "list"]).stdout).unwrap();
    assert!(text.contains("2.50 EUR  Canteen") && text.contains("Enjoy [2J!"), "{text}");

    let confirmed = machine.json(&["prompt", "confirm"]);
    assert_eq!(confirmed["payment"], id(1).to_string());
    let answer = answered(&cloud);
    assert_eq!((answer.payment, answer.answer), (id(1), ChildAnswer::Confirm));
    let again = machine.call(&["prompt", "reject", &id(1).to_string()]);
    assert_eq!(again.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&again.stderr).contains("only the first answer counts"));
    let text = String::from_utf8(machine.call(&["prompt", "list"]).stdout).unwrap();
    assert!(text.contains("You said yes. Waiting for the result."), "{text}");

    // While the PUBACK is on its way, the repeat would be answered by that same message.
    while machine.json(&["status"])["spool_depth"] != 0 {}
    cloud.owe(in_time(1));
    assert_eq!(answered(&cloud), answer, "a repeat gets the same answer");
    cloud.owe(result(1, PaymentState::Settled, "2.50 EUR went to Canteen."));
    list(&machine, |list| list["results"][0]["status"]["state"] == "settled");
    let text = String::from_utf8(machine.call(&["prompt", "list"]).stdout).unwrap();
    assert!(text.contains("2.50 EUR went to Canteen."), "{text}");

    cloud.owe(in_time(2));
    cloud.owe(in_time(3));
    list(&machine, |list| is_shown(list, 2) && list["prompts"].as_array().unwrap().len() == 2);
    let ambiguous = machine.call(&["prompt", "confirm"]);
    assert!(String::from_utf8_lossy(&ambiguous.stderr).contains("name the payment"), "{ambiguous:?}");
    cloud.owe(result(2, PaymentState::Cancelled, "dad took it back"));
    list(&machine, |list| is_shown(list, 3));
    machine.json(&["prompt", "reject", &id(3).to_string()]);
    assert_eq!(answered(&cloud).answer, ChildAnswer::Reject);
    let nothing = machine.call(&["prompt", "confirm"]);
    assert!(nothing.status.code() == Some(6), "{nothing:?}");
    assert_eq!(agent.terminate(), Some(0));
    let stopped = machine.json(&["status"]);
    assert_eq!(stopped["prompt_results"].as_array().unwrap().len(), 3);
}

/// PC-3, correctness.md 14: a late prompt is acknowledged, never shown, never answered.
#[test]
fn a_late_prompt_is_never_shown_and_an_open_one_disappears() {
    let cloud = Cloud::start();
    let machine = Machine::new(&cloud, "piggy-bank");
    let _agent = start(&machine);
    cloud.owe(Down::PaymentPrompt(prompt(1, NOW_MS - 1)));
    cloud.owe(Down::PaymentPrompt(prompt(2, NOW_MS + 3_000)));
    cloud.until_nothing_is_owed();
    let late = |number: u8| {
        let wanted = id(number).to_string();
        move |list: &Value| {
            list["results"]
                .as_array()
                .unwrap()
                .iter()
                .any(|result| result["payment"] == wanted && result["ended"] == "too_late")
        }
    };
    let seen = list(&machine, late(1));
    let open = seen["prompts"].as_array().unwrap();
    assert!(open.iter().all(|open| open["payment"] != id(1).to_string()), "{seen}");
    let seen = list(&machine, late(2));
    assert_eq!(seen["prompts"].as_array().unwrap().len(), 0);
    for number in [1, 2] {
        let refused = machine.call(&["prompt", "confirm", &id(number).to_string()]);
        assert_eq!(refused.status.code(), Some(6));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("too late"), "{refused:?}");
    }
    assert_eq!(machine.json(&["status"])["spool_depth"], 0);
}

/// PC-3, PC-4, correctness.md 5: with unsynced writes lost, a kill at any step neither asks again after an answer that
/// counts, nor loses one.
#[cfg(debug_assertions)]
#[test]
fn a_power_cut_at_any_step_never_asks_twice_and_never_loses_an_answer() {
    use std::os::unix::process::ExitStatusExt;

    let cloud = Cloud::start();
    // Where it was killed, and whether the child is asked in the second life.
    let steps = [
        ("inbox-appended:1", true),
        ("inbox-synced:1", true),
        ("acknowledged:1", true),
        ("outcome-appended:1", true),
        ("outcome-synced:1", false),
        ("reported:1", false),
    ];
    for (number, (step, asked)) in (1..).zip(steps) {
        let machine = Machine::new(&cloud, "piggy-bank");
        let hold = |command: &mut Command| {
            command.env("FARTHING_HOLD_WRITES", "1");
        };
        let mut killed = machine.start(|command| {
            hold(command);
            command.env("FARTHING_KILL_AT", step);
        });
        cloud.owe(in_time(number));
        if !step.starts_with("inbox") && !step.starts_with("acknowledged") {
            list(&machine, |list| is_shown(list, number));
            // It may be killed before it answers.
            machine.call(&["prompt", "confirm", &id(number).to_string()]);
        }
        assert_eq!(killed.0.wait().unwrap().signal(), Some(9), "{step} was not passed");
        let restarted = machine.start(hold);
        if asked {
            list(&machine, |list| is_shown(list, number));
            machine.json(&["prompt", "confirm", &id(number).to_string()]);
        } else {
            let known = list(&machine, |list| list["results"][0]["answer"] == "confirm");
            assert_eq!(known["prompts"].as_array().unwrap().len(), 0, "{step}");
        }
        let answer = answered(&cloud);
        assert_eq!((answer.payment, answer.answer), (id(number), ChildAnswer::Confirm), "{step}");
        cloud.until_nothing_is_owed();
        assert_eq!(restarted.terminate(), Some(0), "{step}");
        while cloud.said.try_recv().is_ok() {}
    }
}

/// A profile with other hardware than the shipped one.
fn profile(machine: &Machine, change: impl FnOnce(String) -> String) -> PathBuf {
    let path = machine.data.with_file_name("piggy.toml");
    let shipped = include_str!("../profiles/piggy-bank.toml");
    std::fs::write(&path, change(shipped.to_owned())).unwrap();
    path
}

/// One press as the kernel writes it: time, type EV_KEY, code, value 1.
fn press(code: u16) -> Vec<u8> {
    let mut event = vec![0; 2 * size_of::<usize>()];
    event.extend(1_u16.to_ne_bytes());
    event.extend(code.to_ne_bytes());
    event.extend(1_i32.to_ne_bytes());
    event
}

/// PC-3: buttons on an input device; here a FIFO with the kernel's own records.
#[test]
fn buttons_answer_the_prompt_that_is_shown() {
    let cloud = Cloud::start();
    let machine = Machine::new(&cloud, "piggy-bank");
    let fifo = machine.data.with_file_name("event0");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    let buttons = format!(
        "[prompt.buttons]\ndevice = \"{}\"\nconfirm = [28]\nreject = [1, 14]\n\n[driver]",
        fifo.display()
    );
    let path = profile(&machine, |text| {
        text.replace("quiet_ms = 500", "quiet_ms = 0").replace("\n[driver]", &format!("\n{buttons}"))
    });
    let _agent = machine.start(|command| {
        command.arg("--profile").arg(&path);
    });
    let mut device = std::fs::File::options().write(true).open(&fifo).unwrap();
    for (number, code, expected) in
        [(1, 28, ChildAnswer::Confirm), (2, 14, ChildAnswer::Reject), (3, 1, ChildAnswer::Reject)]
    {
        cloud.owe(in_time(number));
        list(&machine, |list| is_shown(list, number));
        device.write_all(&press(30)).unwrap();
        device.write_all(&press(code)).unwrap();
        let answer = answered(&cloud);
        assert_eq!((answer.payment, answer.answer), (id(number), expected));
    }
}

#[test]
fn check_names_buttons_that_cannot_be_read() {
    let cloud = Cloud::start();
    let machine = Machine::new(&cloud, "piggy-bank");
    let buttons = "[prompt.buttons]\ndevice = \"/no/such\"\nconfirm = [28]\nreject = [1]\n\n[driver]";
    let path = profile(&machine, |text| text.replace("\n[driver]", &format!("\n{buttons}")));
    std::fs::create_dir_all(&machine.data).unwrap();
    let output = machine.command(&["check"]).env("FARTHING_PROFILE", path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("FAILED  profile     the buttons at /no/such can't be read"), "{text}");
}

/// PC-3: a program asks; it is killed when the question is taken back.
#[test]
fn a_program_asks_and_its_exit_code_answers() {
    let cloud = Cloud::start();
    let machine = Machine::new(&cloud, "piggy-bank");
    let asked = machine.data.with_file_name("asked");
    let script = format!(
        "printf '%s\\n' \\\"$*\\\" >> '{}'; case $1 in 01*) exit 20;; 02*) exit 21;; *) exec sleep 1000;; esac",
        asked.display()
    );
    let path = profile(&machine, |text| {
        let argv = format!(
            "kind = \"process\"\nargv = [\"/bin/sh\", \"-c\", \"{script}\", \"ask\", \"{{payment}}\", \"{{amount}}\"]"
        );
        text.replace("kind = \"auto\"", &argv)
    });
    let agent = machine.start(|command| {
        command.arg("--profile").arg(&path);
    });
    cloud.owe(in_time(1));
    assert_eq!(answered(&cloud).answer, ChildAnswer::Confirm);
    cloud.owe(in_time(2));
    assert_eq!(answered(&cloud).answer, ChildAnswer::Reject);
    cloud.owe(in_time(3));
    list(&machine, |list| is_shown(list, 3));
    cloud.owe(result(3, PaymentState::Cancelled, ""));
    list(&machine, |list| list["prompts"].as_array().unwrap().is_empty());
    let lines = std::fs::read_to_string(&asked).unwrap();
    assert!(lines.starts_with(&format!("{} 2.50 EUR\n{} 2.50 EUR\n", id(1), id(2))), "{lines}");
    assert_eq!(agent.terminate(), Some(0));
}

/// PC-3: on a terminal of its own: the prompt is drawn, a key answers it, and the terminal is given back.
#[test]
#[ignore = "needs script (bsdutils)"]
fn a_key_on_the_screen_answers() {
    let cloud = Cloud::start();
    let machine = Machine::new(&cloud, "piggy-bank");
    let path = profile(&machine, |text| text.replace("quiet_ms = 500", "quiet_ms = 0"));
    let mut agent = machine.command(&["run"]);
    agent.env("FARTHING_PROFILE", path).env("TERM", "xterm");
    let words = std::iter::once(agent.get_program()).chain(agent.get_args());
    let words: Vec<_> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let line = format!("stty rows 24 cols 80; exec {}", words.join(" "));
    let mut script = Command::new("script");
    script.args(["-qefc", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    for (name, value) in agent.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let mut screen = Agent(script.spawn().unwrap());
    let mut keys = screen.0.stdin.take().unwrap();
    for (number, key, expected) in [(1, b"y", ChildAnswer::Confirm), (2, b"n", ChildAnswer::Reject)] {
        cloud.owe(in_time(number));
        list(&machine, |list| is_shown(list, number));
        // A key counts only for what has been drawn, which the list does not say: as a person does, press again.
        let answer = std::iter::repeat_with(|| {
            keys.write_all(key).unwrap();
            answered_within(&cloud, Duration::from_secs(2))
        });
        let answer = answer.take(15).flatten().next().expect("an answer to a key");
        assert_eq!((answer.payment, answer.answer), (id(number), expected));
    }
    keys.write_all(b"q").unwrap();
    let mut drawn = String::new();
    screen.0.stdout.take().unwrap().read_to_string(&mut drawn).unwrap();
    assert_eq!(screen.0.wait().unwrap().code(), Some(0), "{drawn:?}");
    for part in ["\u{1b}[?1049h", "Canteen", "EUR"] {
        assert!(drawn.contains(part), "{drawn:?}");
    }
    let (_, after) = drawn.rsplit_once("\u{1b}[?1049l").expect("the screen before comes back");
    assert!(!after.contains("Canteen"), "{after:?}");
    let log = std::fs::read_to_string(machine.data.join("agent.log")).unwrap();
    assert!(log.contains("answered") && !drawn.contains("INFO"), "{log}");
}

/// Nothing is drawn where there is no terminal; the error says what to do instead.
#[test]
fn a_screen_without_a_terminal_is_refused_with_the_way_out() {
    let cloud = Cloud::start();
    let machine = Machine::new(&cloud, "piggy-bank");
    let output = machine.call(&["run", "--display", "screen"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(4) && text.contains("--display none"), "{text}");
    assert_eq!(output.stdout, b"");
    let other = machine.command(&["run"]).env("FARTHING_DISPLAY", "wall").output().unwrap();
    let text = String::from_utf8(other.stderr).unwrap();
    assert!(other.status.code() == Some(4) && text.contains("`wall` is no display"), "{text}");
}
