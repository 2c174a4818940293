//! One device, one step at a time.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Bench, CHIP, EPOCH_MS, EXECUTOR, acknowledged, command, published};
use edge_agent_device::{CommandRecord, Conditions, Event, HardwareResult, Output, Settings, State, limits};
use schemas::envelope::Envelope;
use schemas::ids::{CommandId, Instance, MessageId};
use schemas::message::{CommandProgress, CommandStatusRequest, ExecutorOutcome, Outcome, Refused, Up};
use schemas::time::Timestamp;
use schemas::wire::Text;

fn outcome_of(outputs: &[Output]) -> ExecutorOutcome {
    let outcomes: Vec<_> = published(outputs)
        .into_iter()
        .filter_map(|up| match up {
            Up::ExecutorCommand(outcome) => Some(outcome),
            _ => None,
        })
        .collect();
    assert_eq!(outcomes.len(), 1, "{outputs:?}");
    outcomes[0].clone()
}

fn refusal(outputs: &[Output]) -> String {
    let outcome = outcome_of(outputs);
    assert_eq!((outcome.outcome, outcome.delivered), (Outcome::Refused, 0));
    outcome.code.unwrap().to_string()
}

fn acts(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Act { .. })).count()
}

/// CP-9, MO-5: nothing leaves before its record is synced, and the act comes after the intent's own record.
#[test]
fn a_command_is_acknowledged_and_acted_on_only_after_sync() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    bench.deliver_command(&command(1, 0));
    assert_eq!(bench.released(), [], "nothing is synced yet");
    assert!(matches!(bench.append()[..], [Event::CommandAccepted { .. }]));
    assert_eq!(bench.released(), [], "appended is not synced");
    bench.sync();
    assert!(matches!(bench.released()[..], [Output::Acknowledge { .. }]));
    assert!(matches!(bench.append()[..], [Event::IntentRecorded { .. }]));
    assert_eq!(bench.released(), [], "the intent is not synced");
    bench.sync();
    assert!(matches!(bench.released()[..], [Output::Act { quantity: 3, .. }]));
}

/// CP-10, CP-11, CP-18
#[test]
fn what_the_hardware_says_is_reported_once() {
    let code = || "jam".parse().unwrap();
    let cases = [
        (HardwareResult::Done, Outcome::Done, 3, None),
        (HardwareResult::DoneInPart { delivered: 2 }, Outcome::DoneInPart, 2, None),
        (HardwareResult::DoneInPart { delivered: 0 }, Outcome::Failed, 0, Some("nothing_delivered")),
        (HardwareResult::DoneInPart { delivered: 9 }, Outcome::Done, 3, None),
        (HardwareResult::Failed { code: code() }, Outcome::Failed, 0, Some("jam")),
        (HardwareResult::Unknown { code: code() }, Outcome::Unknown, 0, Some("jam")),
    ];
    for (result, outcome, delivered, code) in cases {
        let mut bench = Bench::new(EXECUTOR);
        bench.connect_with_time();
        bench.deliver_command(&command(1, 0));
        bench.settle();
        bench.device.handle_hardware(CommandId([1; 16]), result.clone(), bench.now);
        assert_eq!(bench.released(), [], "the outcome is not synced yet");
        let reported = outcome_of(&bench.settle());
        assert_eq!((reported.outcome, reported.delivered), (outcome, delivered), "{result:?}");
        assert_eq!(reported.code.map(|code| code.to_string()).as_deref(), code);
        bench.device.handle_hardware(CommandId([1; 16]), HardwareResult::Done, bench.now);
        assert_eq!(bench.settle(), []);
    }
}

/// CP-9: the same answer, never a second act, on any connection and after a restart.
#[test]
fn a_repeated_command_gets_the_same_answer_and_no_second_act() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    bench.deliver_command(&command(1, 0));
    bench.settle();
    bench.deliver_command(&command(1, 0));
    let outputs = bench.settle();
    assert_eq!((acknowledged(&outputs), acts(&outputs)), (1, 0), "while it acts");
    bench.device.handle_hardware(CommandId([1; 16]), HardwareResult::DoneInPart { delivered: 2 }, bench.now);
    let outputs = bench.settle();
    let first = outcome_of(&outputs);
    let Some(Output::Publish { message, .. }) = outputs.last() else { panic!("{outputs:?}") };
    bench.device.handle_published(bench.connection, *message, 0, bench.now);
    bench.settle();
    bench.crash(1);
    bench.connect_with_time();
    bench.deliver_command(&command(1, 0));
    let outputs = bench.settle();
    assert_eq!((acknowledged(&outputs), acts(&outputs)), (1, 0));
    assert_eq!(outcome_of(&outputs), first);
}

/// CP-13: an intent without an outcome is `unknown` after a restart, and nobody tries again.
#[test]
fn intent_to_unknown_on_restart() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    bench.deliver_command(&command(1, 0));
    bench.settle();
    bench.crash(1);
    let outputs = bench.connect_with_time();
    assert_eq!(acts(&outputs), 0);
    let outcome = outcome_of(&outputs);
    assert_eq!((outcome.outcome, outcome.code.unwrap().as_str()), (Outcome::Unknown, "interrupted"));
}

#[test]
fn an_accepted_command_survives_a_restart_and_is_begun_when_the_time_is_known() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect();
    bench.deliver_command(&command(1, 0));
    assert_eq!(acts(&bench.settle()), 0, "cloud time is not known");
    bench.crash(1);
    let outputs = bench.connect();
    assert_eq!(acts(&outputs), 0);
    bench.answer_time(&outputs);
    assert_eq!(acts(&bench.settle()), 1);
}

/// correctness.md 14: no cloud time, no act; the upper bound decides.
#[test]
fn commands_are_refused_by_the_ladder() {
    struct Case(&'static str, fn(&mut Bench, &mut schemas::message::ExecutorCommand));
    let cases = [
        Case("other_instance", |_, command| command.instance = Instance(2)),
        Case("set_up_mode", |bench, _| bench.device.handle_set_up_mode(true, 0)),
        Case("unknown_item", |_, command| command.item = "tea".parse().unwrap()),
        Case("quantity_over_limit", |_, command| command.quantity = 11),
        Case("quantity_over_limit", |_, command| command.quantity = 0),
        Case("too_late", |_, command| command.start_by = Timestamp(EPOCH_MS - 1)),
        Case("executor_fault", |bench, _| {
            bench.device.handle_conditions(Conditions { executor_fault: true, ..Conditions::default() }, 0);
        }),
        Case("busy", |bench, _| {
            for number in 10..14 {
                bench.deliver_command(&command(number, 0));
            }
        }),
        Case("tombstoned", |bench, command| {
            let question = CommandStatusRequest { command: command.command };
            bench.deliver("command-status", &Envelope::message(MessageId([5; 16]), question).encode());
            let answers = published(&bench.settle());
            assert!(
                matches!(&answers[..], [Up::CommandStatus(answer)] if answer.progress == CommandProgress::NeverSeen)
            );
        }),
    ];
    for Case(code, change) in cases {
        let mut bench = Bench::new(EXECUTOR);
        bench.connect_with_time();
        let mut wanted = command(1, 0);
        change(&mut bench, &mut wanted);
        bench.settle();
        bench.deliver_command(&wanted);
        let outputs = bench.settle();
        assert_eq!((acknowledged(&outputs), acts(&outputs)), (1, 0), "{code}");
        assert_eq!(refusal(&outputs), code);
    }
    let mut chip = Bench::new(CHIP);
    chip.connect_with_time();
    chip.deliver_command(&command(1, 0));
    assert_eq!(refusal(&chip.settle()), "not_an_executor");
}

/// correctness.md 14
#[test]
fn a_command_waits_for_cloud_time_and_is_refused_when_it_does_not_come() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect();
    bench.deliver_command(&command(1, 0));
    assert_eq!(published(&bench.settle()), []);
    bench.now = 9_999;
    bench.device.handle_tick(bench.now);
    assert_eq!(published(&bench.settle()).len(), 0, "questions are not promises");
    assert!(bench.device.poll_timeout().unwrap() <= 10_000);
    bench.now = 10_000;
    bench.device.handle_tick(bench.now);
    assert_eq!(refusal(&bench.settle()), "clock_unknown");

    let settings =
        Settings { clock_wait_ms: 0, ..Settings::of("acme/machine-1".parse().unwrap(), Instance(1)) };
    let mut hasty = Bench::with(EXECUTOR, settings);
    hasty.connect();
    hasty.deliver_command(&command(1, 0));
    assert_eq!(refusal(&hasty.settle()), "clock_unknown");
}

#[test]
fn a_queued_command_is_refused_when_its_turn_comes_too_late() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    bench.deliver_command(&command(1, 0));
    bench.deliver_command(&command(2, 0));
    assert_eq!(acts(&bench.settle()), 1, "one at a time");
    bench.now = 60_001;
    bench.device.handle_hardware(CommandId([1; 16]), HardwareResult::Done, bench.now);
    let outputs = bench.settle();
    assert_eq!(acts(&outputs), 0);
    let said = published(&outputs);
    assert!(
        matches!(&said[..], [Up::ExecutorCommand(unknown), Up::ExecutorCommand(late)]
            if unknown.outcome == Outcome::Done && late.outcome == Outcome::Refused),
        "{said:?}"
    );
}

/// CP-13: silent hardware is `unknown`; a success after that is told as well, and the machine works on.
#[test]
fn silent_hardware_to_unknown_then_late_success_is_told() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    bench.deliver_command(&command(1, 0));
    bench.settle();
    bench.now = bench.device.poll_timeout().unwrap();
    bench.device.handle_tick(bench.now);
    let outcome = outcome_of(&bench.settle());
    assert_eq!((outcome.outcome, outcome.code.unwrap().as_str()), (Outcome::Unknown, "hardware_silent"));
    bench.deliver_command(&command(2, bench.now));
    assert_eq!(refusal(&bench.settle()), "executor_fault");
    bench.device.handle_hardware(CommandId([1; 16]), HardwareResult::Done, bench.now);
    assert_eq!(outcome_of(&bench.settle()).outcome, Outcome::Done);
    bench.deliver_command(&command(3, bench.now));
    assert_eq!(acts(&bench.settle()), 1);
}

/// correctness.md 15
#[test]
fn command_status_says_where_a_command_stands() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    bench.deliver_command(&command(1, 0));
    bench.settle();
    let ask = |bench: &mut Bench, question: u8| {
        let body = CommandStatusRequest { command: CommandId([1; 16]) };
        bench.deliver("command-status", &Envelope::message(MessageId([question; 16]), body).encode());
        let outputs = bench.settle();
        assert_eq!(acknowledged(&outputs), 1);
        match published(&outputs).pop() {
            Some(Up::CommandStatus(answer)) => Some((answer.progress, answer.outcome)),
            _ => None,
        }
    };
    assert_eq!(ask(&mut bench, 1), Some((CommandProgress::IntentOpen, None)));
    assert_eq!(ask(&mut bench, 1), None, "that answer is on its way already");
    bench.device.handle_hardware(CommandId([1; 16]), HardwareResult::Done, bench.now);
    bench.settle();
    assert_eq!(ask(&mut bench, 1), Some((CommandProgress::Ended, Some(Outcome::Done))));
}

/// correctness.md 8 and 9: once per connection, again on the next; 0x97 later; other codes are dead letters.
#[test]
fn a_spooled_message_is_sent_until_it_is_promised() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    bench.deliver_command(&command(1, 0));
    bench.settle();
    bench.device.handle_hardware(CommandId([1; 16]), HardwareResult::Done, bench.now);
    let outputs = bench.settle();
    let Some(Output::Publish { message, .. }) = outputs.last().cloned() else { panic!("{outputs:?}") };
    bench.device.handle_tick(bench.now);
    assert_eq!(published(&bench.settle()).len(), 0, "once per connection");

    let old = bench.connection;
    assert_eq!(published(&bench.connect()).len(), 1, "again on the next");
    bench.device.handle_published(old, message, 0, bench.now);
    bench.settle();
    assert_eq!(bench.device.status(0).spool_depth, 1, "a late PUBACK of an old connection clears nothing");

    bench.device.handle_published(bench.connection, message, 0x97, bench.now);
    assert_eq!(published(&bench.settle()).len(), 0);
    bench.now += 5_000;
    bench.device.handle_tick(bench.now);
    let again = bench.settle();
    assert!(
        again.iter().any(|output| matches!(output, Output::Publish { message: id, .. } if *id == message))
    );

    bench.now += 30_000;
    bench.device.handle_tick(bench.now);
    assert!(bench.settle().contains(&Output::Reconnect { connection: bench.connection }));

    bench.connect();
    bench.device.handle_published(bench.connection, message, 0x87, bench.now);
    bench.settle();
    let status = bench.device.status(0);
    assert_eq!((status.spool_depth, status.dead_letters[0].code.as_str()), (0, "puback_87"));
}

#[test]
fn effects_of_a_lost_connection_do_not_reach_the_next_one() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    bench.deliver_command(&command(1, 0));
    bench.device.handle_disconnected(bench.connection);
    let outputs = bench.settle();
    assert_eq!((acknowledged(&outputs), acts(&outputs)), (0, 1), "{outputs:?}");
}

/// PC-10: a scan with the device's identity may end before its answer comes: that is no news, and no poison.
#[test]
fn the_answer_to_a_scan_that_has_ended_is_taken_in_silence() {
    let answer = schemas::message::RequestAnswer {
        key: schemas::ids::IdempotencyKey([1; 16]),
        payment: None,
        refused: None,
        text: Text::new(""),
    };
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    bench.deliver("request-answer", &Envelope::message(MessageId([2; 16]), answer).encode());
    let outputs = bench.settle();
    assert_eq!((acknowledged(&outputs), published(&outputs).len()), (1, 0));
    assert!(bench.device.status(0).dead_letters.is_empty());
}

/// correctness.md 10: poison is recorded, refused, acknowledged, and blocks nobody.
#[test]
fn poison_is_acknowledged_and_refused_by_name() {
    let newer = {
        let mut newer = Envelope::message(MessageId([1; 16]), command(1, 0));
        newer.v = 99;
        newer.encode()
    };
    let stray = Envelope::message(
        MessageId([2; 16]),
        schemas::message::PlacesAnswer {
            version: 1,
            catalogue: None,
            signer: schemas::signed::PublicKey::of(&common::key()),
        },
    );
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("executor-command", b"\xff\xff".to_vec(), "payload_invalid"),
        ("executor-command", vec![0; 9000], "payload_too_large"),
        ("executor-command", newer, "version_unknown"),
        ("no-such-kind", vec![], "kind_unknown"),
        ("places", stray.encode(), "kind_unexpected"),
    ];
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    for (kind, payload, code) in cases {
        bench.deliver(kind, &payload);
        let outputs = bench.settle();
        assert_eq!(acknowledged(&outputs), 1);
        let said = published(&outputs);
        assert!(matches!(&said[..], [Up::Refused(refused)] if refused.code.as_str() == code), "{said:?}");
        bench.deliver(kind, &payload);
        assert_eq!(published(&bench.settle()).len(), 0, "the repeat says nothing new");
    }
    let letters = bench.device.status(0).dead_letters;
    assert_eq!(letters.len(), 5);
    assert_eq!(letters[2].message, Some(MessageId([1; 16])), "the id is read even where the rest is not");
    bench.deliver_command(&command(1, 0));
    assert_eq!(acts(&bench.settle()), 1);
}

#[test]
fn a_message_that_the_cloud_refuses_leaves_the_spool_as_a_dead_letter() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    bench.deliver("no-such-kind", &[]);
    let outputs = bench.settle();
    let Some(Output::Publish { message, .. }) = outputs.last() else { panic!("{outputs:?}") };
    let body = Refused {
        message: Some(*message),
        about: None,
        code: "nonsense".parse().unwrap(),
        text: Text::new(""),
    };
    let message = *message;
    bench.deliver("refused", &Envelope::message(MessageId([8; 16]), body).encode());
    assert_eq!(acknowledged(&bench.settle()), 1);
    assert_eq!(bench.device.status(0).spool_depth, 1, "its PUBACK says whether that is for good");
    bench.device.handle_published(bench.connection, message, 0x83, bench.now);
    bench.settle();
    let status = bench.device.status(0);
    assert_eq!((status.spool_depth, status.dead_letters.last().unwrap().code.as_str()), (0, "nonsense"));
}

/// correctness.md 10: a full device still says so, from the reserve; when that is gone, by PUBACK code.
#[test]
fn a_full_spool_refuses_from_the_reserve_and_then_by_code() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    let mut full = 0;
    for number in 0..(limits::SPOOL_ENTRIES + limits::SPOOL_RESERVE + 5) {
        let mut wrong = command(1, 0);
        wrong.command = CommandId::derived("test", &[&number.to_be_bytes()]);
        wrong.instance = Instance(7);
        bench.deliver_command(&wrong);
        let refused =
            bench.settle().iter().any(|output| matches!(output, Output::RefuseDelivery { reason: 0x97, .. }));
        full += usize::from(refused);
    }
    assert_eq!(full, 5);
    assert_eq!(bench.device.status(0).spool_depth, limits::SPOOL_ENTRIES + limits::SPOOL_RESERVE);
    bench.crash(1);
    assert_eq!(bench.device.status(0).spool_depth, limits::SPOOL_ENTRIES + limits::SPOOL_RESERVE);

    let mut short = Bench::new(EXECUTOR);
    short.connect_with_time();
    short.device.handle_journal_room(false);
    short.deliver_command(&command(1, 0));
    let outputs = short.settle();
    assert!(matches!(outputs[..], [Output::RefuseDelivery { reason: 0x97, .. }]), "{outputs:?}");
}

#[test]
fn ended_commands_are_forgotten_only_beyond_the_bound_and_after_48_hours() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    let id = |number: usize| CommandId::derived("test", &[&number.to_be_bytes()]);
    for number in 0..limits::COMMANDS {
        let mut wrong = command(1, 0);
        wrong.command = id(number);
        wrong.instance = Instance(7);
        bench.deliver_command(&wrong);
        for output in bench.settle() {
            if let Output::Publish { message, .. } = output {
                bench.device.handle_published(bench.connection, message, 0, bench.now);
            }
        }
    }
    bench.deliver_command(&command(1, 0));
    let outputs = bench.settle();
    assert!(outputs.iter().any(|output| matches!(output, Output::RefuseDelivery { .. })), "{outputs:?}");
    bench.now += limits::COMMAND_MEMORY_MS + 60_000;
    bench.device.handle_tick(bench.now);
    assert_eq!(bench.device.state().command(&id(0)), None, "the oldest");
    assert!(bench.device.state().command(&id(1)).is_some());
    bench.deliver_command(&command(2, bench.now));
    assert_eq!(acts(&bench.settle()), 1);
}

#[test]
fn every_event_and_the_state_survive_encoding() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    bench.deliver_command(&command(1, 0));
    bench.deliver("no-such-kind", &[1]);
    bench.sync();
    for event in bench.append() {
        assert_eq!(Event::decode(&event.encode()).unwrap(), event);
    }
    let state = bench.device.state();
    assert!(matches!(state.command(&CommandId([1; 16])), Some(CommandRecord::Intent(_))));
    assert_eq!(&State::restore(&state.snapshot()).unwrap(), state);
    assert!(Event::decode(b"\x00").is_err() && State::restore(b"\x00").is_err());
}

/// CP-17: told on connect, on change and every ten minutes; the spool and the journal never hold it.
#[test]
fn a_device_says_how_it_is_on_connect_on_change_and_now_and_then() {
    let mut bench = Bench::new(CHIP);
    let codes = |bench: &mut Bench| {
        bench.settle();
        let reports = std::mem::take(&mut bench.reports);
        reports.into_iter().map(|report| report.not_ready.map(|code| code.to_string())).collect::<Vec<_>>()
    };
    let tampered = |tampered| Conditions { tampered, ..Conditions::default() };
    assert_eq!(codes(&mut bench), [], "nobody to tell");
    bench.connect_with_time();
    assert_eq!(codes(&mut bench), [None]);
    bench.now += 5_000;
    bench.device.handle_conditions(tampered(true), bench.now);
    assert_eq!(codes(&mut bench), [Some("tampered".to_owned())]);
    bench.device.handle_conditions(tampered(false), bench.now);
    assert_eq!(codes(&mut bench), [], "not more than one in a second");
    assert_eq!(bench.device.poll_timeout(), Some(bench.now + limits::REPORT_PAUSE_MS));
    bench.now += limits::REPORT_PAUSE_MS;
    bench.device.handle_tick(bench.now);
    assert_eq!(codes(&mut bench), [None]);
    bench.now += limits::REPORT_INTERVAL_MS - 1;
    bench.device.handle_tick(bench.now);
    assert_eq!(codes(&mut bench), []);
    bench.now += 1;
    bench.device.handle_tick(bench.now);
    assert_eq!(codes(&mut bench), [None]);
    bench.device.handle_disconnected(bench.connection);
    bench.connect();
    assert_eq!(codes(&mut bench), [None], "told anew on each connection");
    assert!(bench.log.is_empty(), "nothing of it is journaled: {:?}", bench.log);
    assert_eq!(bench.device.status(bench.now).spool_depth, 0);
}

/// CP-17, correctness.md 9: 0x97 puts a report off, another refusal ends it; neither makes a dead letter.
#[test]
fn a_refused_report_blocks_nothing() {
    let mut bench = Bench::new(EXECUTOR);
    bench.report_answer = 0x97;
    bench.connect_with_time();
    assert_eq!(bench.reports.len(), 1);
    assert_eq!(bench.device.poll_timeout(), Some(bench.now + bench.settings.quota_retry_ms));
    bench.report_answer = 0x99;
    bench.now += bench.settings.quota_retry_ms;
    bench.device.handle_tick(bench.now);
    bench.settle();
    assert_eq!(bench.reports.len(), 2);
    assert_eq!(bench.device.status(bench.now).in_flight, 0);
    assert_eq!(bench.device.status(bench.now).dead_letters_total, 0);
}
