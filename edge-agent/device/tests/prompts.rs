//! A piggy bank, one step at a time (PC-2, PC-3, PC-4, PC-5).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Bench, EPOCH_MS, EXECUTOR, PIGGY_BANK, acknowledged, prompt, published};
use edge_agent_device::{Event, Output, PromptEnd, PromptRecord, PromptRefusal, State, limits};
use schemas::ids::PaymentId;
use schemas::message::{ChildAnswer, PaymentState, PromptAnswer, Up};
use schemas::time::Timestamp;

fn id(number: u8) -> PaymentId {
    PaymentId([number; 16])
}

/// What the screen was told, in order.
fn screen(outputs: &[Output]) -> Vec<Option<PaymentId>> {
    let of = |output: &Output| match output {
        Output::Prompt { shown } => Some(shown.as_ref().map(|shown| shown.prompt.payment)),
        _ => None,
    };
    outputs.iter().filter_map(of).collect()
}

/// What the child was told about its answers.
fn told(outputs: &[Output]) -> Vec<Result<(), PromptRefusal>> {
    let of = |output: &Output| match output {
        Output::PromptAnswered { result, .. } => Some(result.clone()),
        _ => None,
    };
    outputs.iter().filter_map(of).collect()
}

fn answers(outputs: &[Output]) -> Vec<PromptAnswer> {
    let of = |up| match up {
        Up::PaymentPrompt(answer) => Some(answer),
        _ => None,
    };
    published(outputs).into_iter().filter_map(of).collect()
}

/// PC-2, PC-3: PUBACK and screen wait for the record, the answer for its own.
#[test]
fn a_prompt_is_shown_and_answered_only_after_sync() {
    let mut bench = Bench::new(PIGGY_BANK);
    bench.connect_with_time();
    bench.deliver_prompt(&prompt(1, 0));
    assert_eq!(bench.released(), [], "nothing is synced yet");
    bench.answer(1, ChildAnswer::Confirm);
    assert!(matches!(bench.append()[..], [Event::PromptAccepted { .. }]));
    assert_eq!(bench.released(), [], "appended is not synced");
    bench.sync();
    let outputs = bench.released();
    assert_eq!(acknowledged(&outputs), 1);
    assert_eq!(told(&outputs), [Err(PromptRefusal::NoSuchPrompt(id(1)))], "nobody has seen it");
    assert_eq!(screen(&outputs), [Some(id(1))]);

    bench.answer(1, ChildAnswer::Confirm);
    assert!(matches!(bench.append()[..], [Event::PromptAnswered { .. }]));
    assert_eq!(bench.released(), [], "the answer is not synced");
    bench.sync();
    let outputs = bench.released();
    assert_eq!((told(&outputs), screen(&outputs)), (vec![Ok(())], vec![None]));
    let expected =
        PromptAnswer { payment: id(1), answer: ChildAnswer::Confirm, position: None, identified: None };
    assert_eq!(answers(&outputs), [expected]);
}

/// PC-3: each refusal by its code; none of them records or sends anything.
#[test]
fn an_answer_is_refused_by_the_ladder() {
    type Change = fn(&mut Bench);
    let cases: [(&str, Change); 6] = [
        ("no_such_prompt", |bench| {
            *bench = Bench::new(PIGGY_BANK);
            bench.connect_with_time();
        }),
        ("already_answered", |bench| {
            bench.answer(1, ChildAnswer::Reject);
            bench.settle();
        }),
        ("prompt_too_late", |bench| bench.now = 60_000),
        ("prompt_withdrawn", |bench| {
            bench.deliver_result(1, PaymentState::Cancelled);
            bench.settle();
        }),
        ("clock_unknown", |bench| bench.crash(0)),
        ("set_up_mode", |bench| bench.device.handle_set_up_mode(true, bench.now)),
    ];
    for (code, change) in cases {
        let mut bench = Bench::new(PIGGY_BANK);
        bench.connect_with_time();
        bench.deliver_prompt(&prompt(1, 0));
        bench.settle();
        change(&mut bench);
        let spool = bench.device.status(bench.now).spool_depth;
        bench.answer(1, ChildAnswer::Confirm);
        let outputs = bench.settle();
        let [Err(refusal)] = &told(&outputs)[..] else { panic!("{code}: {outputs:?}") };
        assert_eq!(refusal.code(), code);
        assert_eq!(
            (answers(&outputs), bench.device.status(bench.now).spool_depth),
            (vec![], spool),
            "{code}"
        );
    }
}

/// PC-4: the repeat of an answered prompt is answered by the same message; the child is not asked again.
#[test]
fn a_repeated_prompt_gets_the_same_answer_and_is_not_shown_again() {
    let mut bench = Bench::new(PIGGY_BANK);
    bench.connect_with_time();
    bench.deliver_prompt(&prompt(1, 0));
    bench.settle();
    bench.deliver_prompt(&prompt(1, 0));
    let outputs = bench.settle();
    assert_eq!((acknowledged(&outputs), screen(&outputs)), (1, vec![]), "while it is open");
    bench.answer(1, ChildAnswer::Reject);
    let outputs = bench.settle();
    let first = answers(&outputs);
    let message = outputs.iter().find_map(|output| match output {
        Output::Publish { message, .. } => Some(*message),
        _ => None,
    });
    bench.device.handle_published(bench.connection, message.unwrap(), 0, bench.now);
    bench.answer(1, ChildAnswer::Confirm);
    let outputs = bench.settle();
    assert_eq!(told(&outputs), [Err(PromptRefusal::AlreadyAnswered(ChildAnswer::Reject))]);
    bench.crash(1);
    bench.connect_with_time();
    bench.deliver_prompt(&prompt(1, 0));
    let outputs = bench.settle();
    assert_eq!((acknowledged(&outputs), screen(&outputs)), (1, vec![]));
    assert_eq!(answers(&outputs), first, "the same answer again, also after a restart");
    assert!(
        outputs.iter().any(
            |output| matches!(output, Output::Publish { message: again, .. } if Some(*again) == message)
        )
    );
}

/// PC-3, correctness.md 14: by the upper bound of cloud time, to the millisecond.
#[test]
fn a_late_prompt_is_never_shown_and_an_open_one_disappears_in_time() {
    let mut bench = Bench::new(PIGGY_BANK);
    bench.connect_with_time();
    let mut late = prompt(1, 0);
    late.answer_by = Timestamp(EPOCH_MS - 1);
    bench.deliver_prompt(&late);
    let outputs = bench.settle();
    assert_eq!((acknowledged(&outputs), screen(&outputs)), (1, vec![]));

    bench.deliver_prompt(&prompt(2, 0));
    bench.settle();
    let mut end = bench.device.poll_timeout().unwrap();
    // Nobody answers its question for the places.
    while end < 50_000 {
        bench.now = end;
        bench.device.handle_tick(bench.now);
        assert_eq!(screen(&bench.settle()), []);
        end = bench.device.poll_timeout().unwrap();
    }
    assert!((59_980..60_000).contains(&end), "a drift of 200 ppm takes 12 ms off: {end}");
    bench.now = end - 1;
    bench.device.handle_tick(bench.now);
    assert_eq!(screen(&bench.settle()), []);
    bench.now = end;
    bench.device.handle_tick(bench.now);
    assert_eq!(screen(&bench.settle()), [None]);
    for number in [1, 2] {
        let record = bench.device.state().prompt(&id(number));
        assert!(matches!(record, Some(PromptRecord::Ended { why: PromptEnd::TooLate, .. })));
    }
    bench.deliver_prompt(&prompt(2, 0));
    let outputs = bench.settle();
    assert_eq!((acknowledged(&outputs), screen(&outputs)), (1, vec![]), "an ended one stays ended");
    assert_eq!(published(&outputs), []);
}

/// PC-3: without cloud time nothing is shown, however long; with it, what is still in time is.
#[test]
fn prompts_wait_for_cloud_time() {
    let mut bench = Bench::new(PIGGY_BANK);
    let questions = bench.connect();
    bench.deliver_prompt(&prompt(1, 0));
    bench.deliver_prompt(&prompt(2, 60_000));
    let outputs = bench.settle();
    assert_eq!((acknowledged(&outputs), screen(&outputs)), (2, vec![]));
    assert_eq!(bench.device.open_prompts(bench.now)[0].remaining_ms, None);
    bench.now = 70_000;
    bench.device.handle_tick(bench.now);
    let asked_again = bench.settle();
    assert_eq!(screen(&asked_again), []);
    bench.answer_time(&questions);
    bench.answer_time(&asked_again);
    assert_eq!(screen(&bench.settle()), [Some(id(2))], "the first one's time is over");
}

/// PC-3: one at a time, the oldest first; more than the profile allows are put off by PUBACK 0x97.
#[test]
fn prompts_are_shown_in_order_and_bounded() {
    let mut bench = Bench::new(PIGGY_BANK);
    bench.connect_with_time();
    for number in 1..=17 {
        bench.deliver_prompt(&prompt(number, 0));
    }
    let outputs = bench.settle();
    assert_eq!((acknowledged(&outputs), screen(&outputs)), (16, vec![Some(id(1))]));
    assert!(outputs.iter().any(|output| matches!(output, Output::RefuseDelivery { reason: 0x97, .. })));
    bench.answer(2, ChildAnswer::Confirm);
    let outputs = bench.settle();
    assert_eq!((told(&outputs), screen(&outputs)), (vec![Ok(())], vec![]), "not the one that is shown");
    bench.answer(1, ChildAnswer::Confirm);
    assert_eq!(screen(&bench.settle()), [Some(id(3))]);
    bench.deliver_prompt(&prompt(17, 0));
    bench.settle();
    let open: Vec<_> = bench.device.open_prompts(bench.now).iter().map(|open| open.prompt.payment).collect();
    assert_eq!(open, (3..=17).map(id).collect::<Vec<_>>());
    bench.device.handle_set_up_mode(true, bench.now);
    assert_eq!(screen(&bench.settle()), [None]);
    bench.device.handle_set_up_mode(false, bench.now);
    assert_eq!(screen(&bench.settle()), [Some(id(3))]);
}

/// PC-5, correctness.md 16: a result ends an open prompt; an answered one is waiting until the cloud tells more.
#[test]
fn results_end_open_prompts_and_are_kept_for_the_child() {
    let ends = [
        (PaymentState::Settled, true),
        (PaymentState::Rejected, true),
        (PaymentState::Expired, true),
        (PaymentState::Cancelled, true),
        (PaymentState::Refused, true),
        (PaymentState::Voided, true),
        (PaymentState::Refunded, true),
        (PaymentState::Prompting, false),
    ];
    for (state, ended) in ends {
        let mut bench = Bench::new(PIGGY_BANK);
        bench.connect_with_time();
        bench.deliver_prompt(&prompt(1, 0));
        bench.settle();
        bench.device.handle_journal_room(!ended);
        bench.deliver_result(1, state);
        let outputs = bench.settle();
        assert_eq!(acknowledged(&outputs), 1, "{state}: the end of open work finds room in a full journal");
        assert_eq!(screen(&outputs), if ended { vec![None] } else { vec![] }, "{state}");
        bench.crash(1);
        let results = bench.device.prompt_results();
        assert_eq!(results.len(), usize::from(ended), "{state}");
        assert!(results.iter().all(|result| result.status.as_ref().unwrap().state == state));
    }

    let mut bench = Bench::new(PIGGY_BANK);
    bench.connect_with_time();
    bench.deliver_prompt(&prompt(1, 0));
    bench.settle();
    bench.answer(1, ChildAnswer::Confirm);
    bench.settle();
    let waiting = &bench.device.prompt_results()[0];
    assert_eq!((waiting.answer, &waiting.status), (Some(ChildAnswer::Confirm), &None));
    bench.deliver_result(1, PaymentState::Settled);
    bench.settle();
    bench.deliver_result(1, PaymentState::Refunded);
    bench.settle();
    // The guardian is told why an order was refused before anybody was asked, and so is the child.
    bench.deliver_result(2, PaymentState::Refused);
    bench.settle();
    let results = bench.device.prompt_results();
    let states: Vec<_> = results.iter().map(|result| result.status.as_ref().unwrap().state).collect();
    assert_eq!(states, [PaymentState::Refused, PaymentState::Refunded], "newest first, one per payment");
    assert_eq!((results[0].prompt.is_none(), results[1].answer), (true, Some(ChildAnswer::Confirm)));
    bench.deliver_prompt(&prompt(2, 0));
    let outputs = bench.settle();
    assert_eq!((acknowledged(&outputs), screen(&outputs)), (1, vec![]), "the result overtook the question");
}

/// PC-2: another device has no use for a prompt, and says so.
#[test]
fn a_prompt_for_a_device_without_a_child_is_refused_by_name() {
    let mut bench = Bench::new(EXECUTOR);
    bench.connect_with_time();
    bench.deliver_prompt(&prompt(1, 0));
    let outputs = bench.settle();
    assert_eq!(acknowledged(&outputs), 1);
    let said = published(&outputs);
    assert!(matches!(&said[..], [Up::Refused(why)] if why.code.as_str() == "kind_unexpected"), "{said:?}");
}

/// Ended prompts are forgotten above the bound, and only when they are surely late: then they are not shown again.
#[test]
fn ended_prompts_are_forgotten_only_beyond_the_bound_and_when_late() {
    let mut bench = Bench::new(PIGGY_BANK);
    bench.connect_with_time();
    let numbered = |number: usize, now| {
        let mut prompt = prompt(1, now);
        prompt.payment = PaymentId::derived("test", &[&number.to_be_bytes()]);
        prompt
    };
    let deliver = |bench: &mut Bench, number, now| {
        let prompt = numbered(number, now);
        bench.deliver_prompt(&prompt);
        let outputs = bench.settle();
        let mut status = common::result(1, PaymentState::Cancelled);
        status.payment = prompt.payment;
        let id = schemas::ids::MessageId::derived("status", &[&prompt.payment.0]);
        bench.deliver("payment-status", &schemas::envelope::Envelope::message(id, status).encode());
        bench.settle();
        acknowledged(&outputs)
    };
    for number in 0..limits::PROMPTS {
        assert_eq!(deliver(&mut bench, number, 0), 1);
    }
    assert_eq!(deliver(&mut bench, 1_000, 0), 0, "all of them are still in time");
    bench.now = 70_000;
    bench.device.handle_tick(bench.now);
    assert_eq!(deliver(&mut bench, 1_000, 70_000), 1);
    assert_eq!(bench.device.state().prompt(&numbered(0, 0).payment), None, "the oldest");
    assert!(bench.device.state().prompt(&numbered(255, 0).payment).is_some());
    bench.deliver_prompt(&numbered(0, 0));
    assert_eq!(screen(&bench.settle()), [], "forgotten, and late");
}

/// A journal and a snapshot from before prompts are read as they were written.
#[test]
fn prompt_events_and_state_survive_encoding_and_others_stay_as_they_were() {
    let mut bench = Bench::new(PIGGY_BANK);
    bench.connect_with_time();
    let empty = bench.device.state().snapshot();
    assert!(!String::from_utf8_lossy(&empty).contains("prompts"));
    let forgotten = Event::Forgotten {
        commands: vec![],
        checks: vec![],
        informations: vec![],
        prompts: vec![],
        codes: vec![],
    };
    assert!(!String::from_utf8_lossy(&forgotten.encode()).contains("prompts"));
    bench.deliver_prompt(&prompt(1, 0));
    bench.deliver_prompt(&prompt(2, 0));
    bench.settle();
    bench.answer(1, ChildAnswer::Confirm);
    bench.settle();
    bench.deliver_result(1, PaymentState::Settled);
    bench.settle();
    bench.now = 70_000;
    bench.device.handle_tick(bench.now);
    bench.settle();
    assert_eq!(bench.log.len(), 5, "{:?}", bench.log);
    for event in [&bench.log[..], &[forgotten]].concat() {
        assert_eq!(Event::decode(&event.encode()).unwrap(), event);
    }
    let state = bench.device.state();
    assert_eq!(&State::restore(&state.snapshot()).unwrap(), state);
}

/// PC-14: what the child has is known after a restart and offline; an older word never takes the place of a newer one.
#[test]
fn what_the_child_has_survives_a_restart() {
    use schemas::envelope::Envelope;
    use schemas::ids::MessageId;
    use schemas::message::{ChildView, ComingAllowances, Goals};

    let view = |minor, as_of| ChildView {
        child: "mia".parse().unwrap(),
        available: "EUR".parse::<schemas::money::Currency>().unwrap().minor(minor),
        as_of: Timestamp(as_of),
        goals: Goals::default(),
        allowances: ComingAllowances::default(),
        wishes: None,
        results: None,
    };
    let deliver = |bench: &mut Bench, number: u8, view: ChildView| {
        bench.deliver("child-view", &Envelope::message(MessageId([number; 16]), view).encode());
    };
    let mut bench = Bench::new(PIGGY_BANK);
    bench.connect_with_time();
    for (number, (minor, as_of)) in (0..).zip([(500, 2), (900, 1), (500, 2)]) {
        deliver(&mut bench, number, view(minor, as_of));
        assert_eq!(acknowledged(&bench.settle()), 1);
        assert_eq!(bench.device.child_view(), Some(&view(500, 2)));
    }
    bench.crash(0);
    assert_eq!(bench.device.status(bench.now).child_view, Some(view(500, 2)));
    bench.connect_with_time();
    // Two of one millisecond: the later word counts, not the first.
    for (number, minor) in [(9, 600), (10, 700)] {
        deliver(&mut bench, number, view(minor, 3));
        bench.settle();
        assert_eq!(bench.device.child_view(), Some(&view(minor, 3)));
    }

    let mut executor = Bench::new(EXECUTOR);
    executor.connect_with_time();
    deliver(&mut executor, 1, view(500, 2));
    executor.settle();
    assert_eq!(executor.device.child_view(), None, "a device without a child has no use for it");
    assert_eq!(executor.device.status(executor.now).dead_letters.len(), 1);
}
