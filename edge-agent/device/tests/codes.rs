//! A piggy bank's codes, places and position, one step at a time (PC-6, PC-7, PC-9, PC-15, PC-16).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::codes::{Piggy, SCHOOL, answer, at_once, catalogue, categories, cloud, code, id, piggy, token};
use common::{Bench, EPOCH_MS, EXECUTOR, PIGGY_BANK, acknowledged, key, prompt, published};
use ed25519_dalek::SigningKey;
use edge_agent_device::{
    CodeEnd, CodeRecord, CodeRefusal, CodeRequest, Event, Output, ShownCode, State, limits,
};
use schemas::envelope::Envelope;
use schemas::ids::{Instance, MessageId, PaymentId};
use schemas::message::{
    ChildAnswer, CodeClaim, CodeClaims, PaymentCode, PaymentMode, PaymentState, PlacesAnswer, PromptAnswer,
    ShowCode, Up,
};
use schemas::signed::{CodeText, PaymentToken, Presented, PublicKey};
use schemas::time::Timestamp;
use schemas::topic::Kind;

/// What was put up, in order.
fn screen(outputs: &[Output]) -> Vec<Option<PaymentId>> {
    let of = |output: &Output| match output {
        Output::Code { shown } => Some(shown.as_ref().map(|shown| shown.payment)),
        _ => None,
    };
    outputs.iter().filter_map(of).collect()
}

/// What the child was told when it asked.
fn told(outputs: &[Output]) -> Result<ShownCode, CodeRefusal> {
    let of = |output: &Output| match output {
        Output::CodeAnswered { result, .. } => Some(result.clone()),
        _ => None,
    };
    let told: Vec<_> = outputs.iter().filter_map(of).collect();
    assert_eq!(told.len(), 1);
    told[0].clone()
}

fn why(outputs: &[Output]) -> &'static str {
    told(outputs).map_or_else(|why| why.code(), |_| "shown")
}

/// PC-6: PUBACK and screen wait for the record; the child asks and sees exactly the text of the cloud.
#[test]
fn a_code_is_shown_only_after_sync_and_when_asked_for() {
    let mut bench = piggy();
    bench.code(&code(1, 0));
    assert_eq!(bench.released(), [], "nothing is synced yet");
    bench.device.handle_code_request(&CodeRequest { ticket: 1, payment: id(1) }, bench.now);
    assert!(matches!(bench.append()[..], [Event::CodeAccepted { .. }]));
    assert_eq!(bench.released(), [], "appended is not synced");
    bench.sync();
    let outputs = bench.released();
    assert_eq!((acknowledged(&outputs), screen(&outputs), why(&outputs)), (1, vec![], "no_such_code"));
    let outputs = bench.ask(1);
    assert_eq!(screen(&outputs), [Some(id(1))]);
    let shown = told(&outputs).unwrap();
    assert_eq!((shown.text.as_str(), shown.expires_at), ("FQ1:1", code(1, 0).expires_at));
    assert!((59_980..60_000).contains(&shown.until_boot_ms), "{shown:?}");
    assert!(!format!("{shown:?}").contains("FQ1"), "a code belongs into no log");
    let again = bench.ask(1);
    assert_eq!((screen(&again), told(&again).unwrap()), (vec![], shown), "it is there already");
}

/// PC-9: each step of the ladder by its code; nothing but a sure position at a place that takes it shows a code.
#[test]
fn a_code_is_shown_only_where_it_counts() {
    type Change = fn(&mut Bench);
    let cases: [(&str, Change); 21] = [
        ("shown", |_| {}),
        ("shown", |bench| bench.stand(5_000, 40)),
        ("position_inaccurate", |bench| bench.stand(5_000, 60)),
        ("position_inaccurate", |bench| bench.stand(0, u32::MAX)),
        ("not_at_a_place", |bench| bench.stand(50_000, 5)),
        ("not_at_a_place", |bench| bench.stand(-20_000, 5)),
        ("category_not_here", |bench| bench.stand(100_000, 5)),
        ("position_inaccurate", |bench| bench.stand(100_000, 200)),
        ("position_unknown", |bench| bench.device.handle_position(None, bench.now)),
        ("shown", |bench| bench.now = limits::POSITION_AGE_MS),
        ("position_too_old", |bench| bench.now = limits::POSITION_AGE_MS + 1),
        ("shown", |bench| bench.code(&PaymentCode { place: Some("school".parse().unwrap()), ..code(9, 0) })),
        ("other_place", |bench| {
            bench.code(&PaymentCode { place: Some("shop".parse().unwrap()), ..code(9, 0) })
        }),
        ("places_unknown", |bench| {
            bench.code(&PaymentCode { place: Some("zoo".parse().unwrap()), ..code(9, 0) });
        }),
        ("category_not_here", |bench| {
            let toys = categories("toys");
            bench.code(&PaymentCode {
                place: Some("school".parse().unwrap()),
                categories: toys,
                ..code(9, 0)
            });
        }),
        ("places_unknown", |bench| bench.code(&PaymentCode { places_version: 2, ..code(9, 0) })),
        ("set_up_mode", |bench| bench.device.handle_set_up_mode(true, bench.now)),
        ("code_expired", |bench| bench.now = 60_000),
        ("already_ended", |bench| _ = bench.deliver_result(9, PaymentState::Settled)),
        ("position_unknown", |bench| {
            bench.crash(0);
            bench.connect_with_time();
        }),
        ("clock_unknown", |bench| bench.crash(0)),
    ];
    for (number, (expected, change)) in cases.into_iter().enumerate() {
        let mut bench = piggy();
        bench.code(&code(9, 0));
        bench.settle();
        let own = bench.device.state().code(&id(9)).cloned();
        assert!(matches!(own, Some(CodeRecord::Open(_))));
        // Where the change delivers a code of its own, that one is asked for.
        let mut bench = if changes_code(number) { piggy() } else { bench };
        change(&mut bench);
        bench.device.handle_tick(bench.now);
        bench.settle();
        let outputs = bench.ask(9);
        assert_eq!(why(&outputs), expected, "case {number}");
        assert_eq!(screen(&outputs).is_empty(), expected != "shown", "case {number}");
        if let Err(why) = told(&outputs) {
            assert!(!why.to_string().is_empty());
        }
    }
}

fn changes_code(case: usize) -> bool {
    (11..=15).contains(&case)
}

/// PC-9: a refusal is a sentence with the place that counts, and stands in the list of codes as well.
#[test]
fn the_list_says_why_a_code_is_not_shown_now() {
    let mut bench = piggy();
    bench.code(&PaymentCode { place: Some("shop".parse().unwrap()), ..code(1, 0) });
    bench.settle();
    let open = bench.device.open_codes(bench.now);
    let (why, text) = open[0].not_now.clone().unwrap();
    assert_eq!(why.as_str(), "other_place");
    assert!(text.contains("The shop"), "{text}");
    assert!(!open[0].shown && open[0].remaining_ms == Some(59_999 + 1));
    let listed = String::from_utf8(schemas::cbor::encode(&open)).unwrap_or_default();
    assert!(!listed.contains("FQ1"), "the list is not the code");
}

/// PC-6: at once means as soon as it can be: when it is on disk, at the place, with the places known. One at a time.
#[test]
fn a_code_to_be_shown_at_once_is_shown_as_soon_as_it_can_be() {
    let mut bench = piggy();
    bench.stand(50_000, 5);
    bench.code(&at_once(1, 0));
    assert_eq!(screen(&bench.released()), [], "not synced");
    assert_eq!(screen(&bench.settle()), [], "not at a place");
    bench.stand(0, 10);
    assert_eq!(screen(&bench.settle()), [Some(id(1))]);
    bench.code(&at_once(2, 0));
    assert_eq!(screen(&bench.settle()), [], "one at a time");
    assert_eq!(screen(&bench.ask(2)), [Some(id(2))], "what the child asks for comes first");
    bench.stand(50_000, 5);
    assert_eq!(screen(&bench.settle()), [], "what is shown stays");
    bench.deliver_result(2, PaymentState::Settled);
    assert_eq!(screen(&bench.settle()), [None], "paid; the other one waits for its place");
    bench.stand(0, 10);
    assert_eq!(screen(&bench.settle()), [Some(id(1))]);

    let mut unchecked = Bench::new(PIGGY_BANK);
    unchecked.connect_with_time();
    unchecked.code(&PaymentCode { check_place: false, ..at_once(1, 0) });
    assert_eq!(screen(&unchecked.settle()), [Some(id(1))], "the tenant does not check");

    let mut later = Bench::new(PIGGY_BANK);
    later.connect_with_time();
    later.places(&answer(1, &cloud()));
    later.stand(0, 10);
    later.settle();
    later.code(&PaymentCode { places_version: 2, ..at_once(1, 0) });
    let outputs = later.settle();
    assert_eq!((screen(&outputs), questions(&outputs)), (vec![], vec![1]), "it asks for the newer places");
    later.places(&answer(2, &cloud()));
    assert_eq!(screen(&later.settle()), [Some(id(1))]);
}

/// PC-6, PC-15, correctness.md 14: by the upper bound of cloud time, to the millisecond; and by the cloud's word.
#[test]
fn a_code_vanishes_at_its_end() {
    let mut bench = piggy();
    bench.code(&code(1, 0));
    bench.settle();
    let until = told(&bench.ask(1)).unwrap().until_boot_ms;
    assert_eq!(bench.device.poll_timeout(), Some(until + 1));
    bench.now = until;
    bench.device.handle_tick(bench.now);
    assert_eq!(screen(&bench.settle()), []);
    bench.now = until + 1;
    bench.device.handle_tick(bench.now);
    assert_eq!(screen(&bench.settle()), [None]);
    let ended = bench.device.state().code(&id(1)).unwrap();
    assert!(matches!(ended, CodeRecord::Ended { why: CodeEnd::Expired, .. }));
    bench.code(&code(1, 0));
    let outputs = bench.settle();
    assert_eq!((acknowledged(&outputs), bench.device.open_codes(bench.now).len()), (1, 0), "it stays ended");

    for (state, ends) in [
        (PaymentState::Settled, true),
        (PaymentState::Expired, true),
        (PaymentState::Cancelled, true),
        (PaymentState::Refused, true),
        (PaymentState::Refunded, true),
        (PaymentState::Presenting, false),
        (PaymentState::Prompting, false),
    ] {
        let mut bench = piggy();
        bench.code(&code(1, 0));
        bench.settle();
        bench.ask(1);
        bench.device.handle_journal_room(!ends);
        bench.deliver_result(1, state);
        let outputs = bench.settle();
        assert_eq!(acknowledged(&outputs), 1, "{state}: the end of open work finds room in a full journal");
        assert_eq!(screen(&outputs), if ends { vec![None] } else { vec![] }, "{state}");
        let mut bench = piggy();
        bench.deliver_result(1, state);
        bench.settle();
        bench.code(&code(1, 0));
        let outputs = bench.settle();
        let open = bench.device.open_codes(bench.now).len();
        assert_eq!((acknowledged(&outputs), open), (1, usize::from(!ends)), "{state} before its code");
    }
}

/// PC-7: the device's own key, the claims that were asked for, two minutes at most, a new one when it is over.
#[test]
fn a_token_is_signed_by_the_device_and_made_anew() {
    let verified = |text: &CodeText| {
        let Some(Presented::Token(signed)) = text.presented() else { panic!("{text}") };
        PaymentToken::verify(&signed, &PublicKey::of(&key())).unwrap()
    };
    let mut bench = piggy();
    bench.now = 10_500;
    bench.stand(0, 10);
    let claims = CodeClaims::new(vec![CodeClaim::Child, CodeClaim::Category]).unwrap();
    let long = Timestamp(EPOCH_MS + 400_000);
    bench.code(&PaymentCode { contains: claims, expires_at: long, ..token(1, 0) });
    bench.settle();
    let first = told(&bench.ask(1)).unwrap();
    let token_1 = verified(&first.text);
    assert_eq!((token_1.payment, token_1.device.to_string().as_str()), (id(1), "acme/machine-1"));
    assert_eq!(token_1.payer.child, Some("mia".parse().unwrap()));
    assert_eq!((token_1.payer.device, token_1.payer.categories), (None, Some(categories("lunch"))));
    assert!(token_1.issued_at.0 <= EPOCH_MS + bench.now);
    assert!(token_1.expires_at.ms_since(token_1.issued_at) <= limits::TOKEN_MS);
    assert_eq!(first.expires_at, token_1.expires_at);
    bench.now = first.until_boot_ms + 1;
    bench.device.handle_tick(bench.now);
    assert_eq!(screen(&bench.settle()), [None], "asked for, so asked for again");
    assert_eq!(why(&bench.ask(1)), "position_too_old");
    bench.stand(0, 10);
    let second = verified(&told(&bench.ask(1)).unwrap().text);
    assert!(second.issued_at > token_1.issued_at);

    let mut bench = piggy();
    bench.code(&token(1, 0));
    bench.settle();
    let last = told(&bench.ask(1)).unwrap().expires_at;
    assert!(last <= token(1, 0).expires_at, "never longer than the code");

    let mut bench = piggy();
    bench.code(&PaymentCode { show: ShowCode::AtOnce, expires_at: long, ..token(1, 0) });
    assert_eq!(screen(&bench.settle()), [Some(id(1))]);
    bench.now = bench.device.poll_timeout().unwrap();
    assert!((119_900..120_000).contains(&bench.now), "{}", bench.now);
    bench.stand(0, 10);
    assert_eq!(screen(&bench.settle()), [Some(id(1))], "renewed in place");
    let mut keyless = Bench::new(PIGGY_BANK);
    keyless.connect_with_time();
    keyless.code(&PaymentCode { check_place: false, show: ShowCode::AtOnce, ..token(1, 0) });
    keyless.settle();
    assert_eq!(why(&keyless.ask(1)), "key_unknown");
}

/// PC-9: what is shown is judged again when the child asks again, and by itself as often as a token ends.
#[test]
fn a_code_that_is_shown_is_judged_again() {
    let long = |made: PaymentCode| PaymentCode { expires_at: Timestamp(EPOCH_MS + 600_000), ..made };
    for (made, shown_again) in [(code(1, 0), false), (at_once(1, 0), true), (token(1, 0), false)] {
        let start = || {
            let mut bench = piggy();
            bench.code(&long(made.clone()));
            bench.settle();
            let first = told(&bench.ask(1)).unwrap();
            (bench, first)
        };
        let (mut bench, _) = start();
        bench.stand(50_000, 5);
        assert_eq!(screen(&bench.settle()), [], "{made:?}: it has just been judged");
        let outputs = bench.ask(1);
        assert_eq!((screen(&outputs), why(&outputs)), (vec![None], "not_at_a_place"), "{made:?}");
        assert_eq!(screen(&bench.ask(2)), [], "nothing is shown, so nothing is taken down");

        for (north, expected) in [(0, vec![Some(id(1))]), (50_000, vec![None])] {
            let (mut bench, first) = start();
            assert!(first.until_boot_ms <= bench.now + limits::TOKEN_MS, "{made:?}");
            bench.now = bench.device.poll_timeout().unwrap();
            assert_eq!(bench.now, first.until_boot_ms + 1, "{made:?}");
            bench.stand(north, 5);
            let expected = if shown_again { expected } else { vec![None] };
            assert_eq!(screen(&bench.settle()), expected, "{made:?} at {north}");
        }
    }
    let mut bench = piggy();
    bench.code(&long(PaymentCode { check_place: false, ..at_once(1, 0) }));
    bench.settle();
    let until = told(&bench.ask(1)).unwrap().until_boot_ms;
    assert!(until > 599_000, "nobody judges it: {until}");
}

/// PC-9: another code is refused, and the one that is shown stays.
#[test]
fn a_refusal_takes_down_only_what_it_is_about() {
    let mut bench = piggy();
    bench.code(&code(1, 0));
    bench.code(&PaymentCode { place: Some("shop".parse().unwrap()), ..code(2, 0) });
    bench.settle();
    bench.ask(1);
    let outputs = bench.ask(2);
    assert_eq!((screen(&outputs), why(&outputs)), (vec![], "other_place"));
}

/// PC-6: the cloud ends codes with the enrolment that they were sent to, and can tell nobody. A journal of before says
/// of no code whose it is: those live on.
#[test]
fn codes_of_a_former_enrolment_are_over() {
    for (renewed, expected) in [(false, "shown"), (true, "code_expired")] {
        let mut bench = piggy();
        bench.code(&code(1, 0));
        bench.settle();
        if renewed {
            bench.settings.instance = Instance(2);
        }
        bench.crash(0);
        assert_eq!(bench.device.open_codes(0).len(), usize::from(!renewed), "before anything is connected");
        bench.connect_with_time();
        bench.places(&answer(1, &cloud()));
        bench.stand(0, 10);
        bench.settle();
        assert_eq!(why(&bench.ask(1)), expected);
        bench.code(&code(2, 0));
        bench.settle();
        assert_eq!(why(&bench.ask(2)), "shown", "one of this enrolment");
    }
    let own = Event::CodeAccepted { code: code(1, 0), instance: Some(Instance(1)) };
    let old = Event::CodeAccepted { code: code(1, 0), instance: None };
    assert!(!String::from_utf8_lossy(&old.encode()).contains("instance"), "as it was written before");
    for (event, open) in [(own, 0), (old, 1)] {
        let mut state = State::default();
        state.evolve(&Event::decode(&event.encode()).unwrap());
        let state = State::restore(&state.snapshot()).unwrap();
        let settings = edge_agent_device::Settings::of("acme/machine-1".parse().unwrap(), Instance(2));
        let recovered = edge_agent_device::Recovered { state, ..Default::default() };
        let profile = edge_agent_device::Profile::parse(PIGGY_BANK).unwrap();
        let device = edge_agent_device::Device::open(settings, profile, recovered, [1; 16], 0);
        assert_eq!(device.open_codes(0).len(), open, "{event:?}");
    }
}

/// PC-7: a time that is known too roughly for a token is no end of the code.
#[test]
fn a_token_needs_the_time_more_exactly_than_a_code() {
    for (made, late, expected) in [
        (token(1, 0), 0, "shown"),
        (token(1, 0), 118_000, "shown"),
        (token(1, 0), limits::TOKEN_MS + 1, "clock_unknown"),
        (code(1, 0), limits::TOKEN_MS + 1, "shown"),
        (token(1, 0), 700_000, "code_expired"),
    ] {
        let mut bench = Bench::new(PIGGY_BANK);
        bench.device.handle_key(key());
        bench.connection += 1;
        bench.device.handle_connected(bench.connection, 4, 0);
        let asked = bench.settle();
        // The answer was under way for so long.
        let stamp = bench.now;
        bench.now += late;
        bench.answer_time_of(&asked, stamp);
        bench.places(&answer(1, &cloud()));
        bench.stand(0, 10);
        bench.code(&PaymentCode { expires_at: Timestamp(EPOCH_MS + 600_000), ..made });
        bench.settle();
        assert_eq!(why(&bench.ask(1)), expected, "{late} ms");
    }
}

/// Which versions the device said that it has when it asked for places.
fn questions(outputs: &[Output]) -> Vec<u64> {
    let of = |output: &Output| match output {
        Output::Ask { kind: Kind::Places, payload, .. } => {
            match Up::decode(Kind::Places, payload).unwrap().body {
                Up::Places(question) => Some(question.version),
                _ => None,
            }
        }
        _ => None,
    };
    outputs.iter().filter_map(of).collect()
}

/// PC-9: asked on each connection, again if nothing comes, more and more seldom; never by another device.
#[test]
fn places_are_asked_for_on_each_connection() {
    let mut bench = Bench::new(PIGGY_BANK);
    assert_eq!(questions(&bench.connect_with_time()), [0]);
    for (at, asked) in [(4_999, 0), (5_000, 1), (14_999, 0), (15_000, 1), (34_999, 0), (35_000, 1)] {
        bench.now = at;
        bench.device.handle_tick(at);
        assert_eq!(questions(&bench.settle()).len(), asked, "at {at}");
    }
    bench.device.handle_journal_room(false);
    bench.places(&answer(3, &cloud()));
    bench.settle();
    let refused = bench.device.status(bench.now).places.unwrap().refused;
    assert_eq!(refused.unwrap().as_str(), "journal_full");
    bench.device.handle_journal_room(true);
    bench.now = 75_000;
    bench.device.handle_tick(bench.now);
    assert_eq!(questions(&bench.settle()), [0], "there may be room now");
    bench.places(&answer(3, &cloud()));
    bench.settle();
    bench.now = 700_000;
    bench.device.handle_tick(bench.now);
    assert_eq!(questions(&bench.settle()).len(), 0, "it has them");
    bench.crash(0);
    assert_eq!(questions(&bench.connect_with_time()), [3], "and still has them after a restart");
    bench.places(&PlacesAnswer { version: 3, catalogue: None, signer: PublicKey::of(&cloud()) });
    bench.settle();
    let status = bench.device.status(bench.now).places.unwrap();
    assert_eq!((status.version, status.places, status.refused), (3, 2, None));

    let mut other = Bench::new(EXECUTOR);
    assert_eq!(questions(&other.connect_with_time()).len(), 0);
    assert_eq!(other.device.status(0).places, None);
}

/// PC-9: only what the pinned signer has signed, for this tenant, and nothing older; `status` says why not.
#[test]
fn places_of_others_forged_ones_and_older_ones_are_refused() {
    let thief = SigningKey::from_bytes(&[2; 32]);
    let mut forged = answer(3, &thief);
    forged.signer = PublicKey::of(&cloud());
    let mut elsewhere = catalogue(3);
    elsewhere.tenant = "home".parse().unwrap();
    let catalogue = Some(elsewhere.sign(&cloud()).unwrap());
    let elsewhere = PlacesAnswer { version: 3, catalogue, signer: PublicKey::of(&cloud()) };
    let missing = PlacesAnswer { version: 3, catalogue: None, signer: PublicKey::of(&cloud()) };
    let mut bench = piggy();
    bench.places(&answer(2, &cloud()));
    for (wrong, expected) in [
        (answer(3, &thief), "signer_changed"),
        (forged.clone(), "places_forged"),
        (elsewhere, "places_of_another_tenant"),
        (answer(1, &cloud()), "places_older"),
        (missing, "places_missing"),
    ] {
        bench.places(&wrong);
        bench.settle();
        let status = bench.device.status(bench.now).places.unwrap();
        assert_eq!((status.version, status.refused.unwrap().as_str()), (2, expected));
    }
    bench.places(&answer(3, &cloud()));
    bench.settle();
    let status = bench.device.status(bench.now).places.unwrap();
    assert_eq!((status.version, status.refused), (3, None));
    assert_eq!(status.signer, Some(PublicKey::of(&cloud())));

    // Nobody is pinned by a forgery, and a new enrolment trusts anew.
    let mut bench = Bench::new(PIGGY_BANK);
    bench.connect_with_time();
    bench.places(&forged);
    bench.settle();
    assert_eq!(bench.device.status(0).places.unwrap().signer, None);
    bench.places(&answer(5, &cloud()));
    bench.settle();
    bench.settings.instance = Instance(2);
    bench.crash(0);
    let status = bench.device.status(bench.now).places.unwrap();
    assert_eq!((status.version, status.signer), (0, None));
    assert_eq!(questions(&bench.connect_with_time()), [0]);
    bench.places(&answer(1, &thief));
    bench.settle();
    assert_eq!(bench.device.status(bench.now).places.unwrap().version, 1);
}

/// PC-3, PC-16: an answer says where the piggy bank was, if it knows, and whether it was the child, if that was asked.
#[test]
fn an_answer_carries_position_and_identity() {
    let heard = |bench: &mut Bench, identify: Option<bool>, identified: bool| {
        let mut prompt = prompt(1, bench.now);
        prompt.identify = identify;
        bench.deliver_prompt(&prompt);
        bench.settle();
        let request = edge_agent_device::PromptAnswerRequest {
            ticket: 1,
            payment: id(1),
            answer: ChildAnswer::Confirm,
            identified,
        };
        bench.device.handle_prompt_answer(&request, bench.now);
        let outputs = bench.settle();
        let message = outputs.iter().find_map(|output| match output {
            Output::Publish { message, .. } => Some(*message),
            _ => None,
        });
        bench.device.handle_published(bench.connection, message.unwrap(), 0, bench.now);
        bench.settle();
        answers(&outputs)
    };
    for (identify, identified, expected) in [
        (None, false, None),
        (None, true, None),
        (Some(false), true, None),
        (Some(true), false, Some(false)),
        (Some(true), true, Some(true)),
    ] {
        let mut bench = piggy();
        bench.now = 2_000;
        let said = heard(&mut bench, identify, identified);
        let [PromptAnswer { position: Some(position), identified, .. }] = &said[..] else {
            panic!("{said:?}")
        };
        assert_eq!(*identified, expected);
        assert_eq!(
            (position.latitude_e7, position.longitude_e7, position.accuracy_m),
            (SCHOOL.0, SCHOOL.1, 10)
        );
        assert!(
            position.at.0 <= EPOCH_MS && position.at.0 > EPOCH_MS - 10,
            "when it was there: {position:?}"
        );
        bench.crash(1);
        bench.connect_with_time();
        bench.stand(50_000, 5);
        bench.deliver_prompt(&prompt(1, 2_000));
        assert_eq!(answers(&bench.settle())[0], said[0], "a repeat says the same, wherever it is now");
    }
    let mut bench = piggy();
    bench.now = limits::POSITION_AGE_MS + 1;
    assert_eq!(heard(&mut bench, None, false)[0].position, None, "too long ago");
}

fn answers(outputs: &[Output]) -> Vec<PromptAnswer> {
    let of = |up| match up {
        Up::PaymentPrompt(answer) => Some(answer),
        _ => None,
    };
    published(outputs).into_iter().filter_map(of).collect()
}

/// A code that can't be one, or for a device that shows none, is refused by name; more than the limit are put off.
#[test]
fn codes_are_checked_and_bounded() {
    for wrong in
        [PaymentCode { code: None, ..code(1, 0) }, PaymentCode { mode: PaymentMode::Deduction, ..code(1, 0) }]
    {
        let mut bench = piggy();
        bench.code(&wrong);
        let outputs = bench.settle();
        let said = published(&outputs);
        assert!(
            matches!(&said[..], [Up::Refused(why)] if why.code.as_str() == "payload_invalid"),
            "{said:?}"
        );
        assert_eq!((acknowledged(&outputs), bench.device.open_codes(0).len()), (1, 0));
    }
    let mut other = Bench::new(EXECUTOR);
    other.connect_with_time();
    other.code(&code(1, 0));
    let said = published(&other.settle());
    assert!(matches!(&said[..], [Up::Refused(why)] if why.code.as_str() == "kind_unexpected"), "{said:?}");

    let mut bench = piggy();
    for number in 1..=17 {
        bench.code(&code(number, 0));
    }
    let outputs = bench.settle();
    assert_eq!(acknowledged(&outputs), limits::CODES_OPEN);
    assert!(outputs.iter().any(|output| matches!(output, Output::RefuseDelivery { reason: 0x97, .. })));
    bench.deliver_result(1, PaymentState::Settled);
    bench.code(&code(17, 0));
    assert_eq!(acknowledged(&bench.settle()), 2);
    bench.device.handle_journal_room(false);
    bench.deliver_result(2, PaymentState::Settled);
    bench.code(&code(18, 0));
    assert_eq!(acknowledged(&bench.settle()), 1, "no new code in a full journal");
}

/// Ended codes are forgotten above the bound, and only when they are surely late: then they are not shown again.
#[test]
fn ended_codes_are_forgotten_only_beyond_the_bound_and_when_late() {
    let mut bench = piggy();
    let numbered = |number: usize, now| {
        let payment = PaymentId::derived("test", &[&number.to_be_bytes()]);
        PaymentCode { payment, ..code(1, now) }
    };
    let deliver = |bench: &mut Bench, number, now| {
        let code = numbered(number, now);
        bench.code(&code);
        let taken = acknowledged(&bench.settle());
        let mut status = common::result(1, PaymentState::Cancelled);
        status.payment = code.payment;
        let id = MessageId::derived("status", &[&code.payment.0]);
        bench.deliver("payment-status", &Envelope::message(id, status).encode());
        bench.settle();
        taken
    };
    for number in 0..limits::CODES {
        assert_eq!(deliver(&mut bench, number, 0), 1);
    }
    assert_eq!(deliver(&mut bench, 1_000, 0), 0, "all of them are still in time");
    bench.now = 70_000;
    bench.device.handle_tick(bench.now);
    assert_eq!(deliver(&mut bench, 1_001, 70_000), 1);
    assert_eq!(bench.device.state().code(&numbered(0, 0).payment), None, "the oldest");
    assert!(bench.device.state().code(&numbered(255, 0).payment).is_some());
    bench.code(&numbered(0, 0));
    assert_eq!(screen(&bench.settle()), []);
    assert_eq!(bench.device.open_codes(bench.now).len(), 0, "forgotten, and late");
}

/// A journal and a snapshot from before codes are read as they were written.
#[test]
fn code_events_and_state_survive_encoding_and_others_stay_as_they_were() {
    let mut bench = Bench::new(PIGGY_BANK);
    bench.connect_with_time();
    bench.deliver_prompt(&prompt(1, 0));
    bench.settle();
    bench.answer(1, ChildAnswer::Confirm);
    bench.settle();
    let before = String::from_utf8_lossy(&bench.device.state().snapshot()).into_owned();
    let events: Vec<u8> = bench.log.iter().flat_map(Event::encode).collect();
    for (name, text) in [("snapshot", before), ("events", String::from_utf8_lossy(&events).into_owned())] {
        for new in ["codes", "places", "identified"] {
            assert!(!text.contains(new), "{name} {new}");
        }
    }
    bench.places(&answer(1, &cloud()));
    bench.stand(0, 10);
    bench.code(&code(1, 0));
    bench.code(&token(2, 0));
    bench.settle();
    bench.deliver_result(1, PaymentState::Settled);
    bench.settle();
    bench.now = 70_000;
    bench.device.handle_tick(bench.now);
    bench.settle();
    let kinds = bench.log.iter().filter(|event| {
        matches!(
            event,
            Event::CodeAccepted { .. }
                | Event::CodeExpired { .. }
                | Event::SignerPinned { .. }
                | Event::PlacesReceived { .. }
        )
    });
    assert_eq!(kinds.count(), 5, "{:?}", bench.log);
    for event in &bench.log {
        assert_eq!(&Event::decode(&event.encode()).unwrap(), event);
    }
    let state = bench.device.state();
    assert_eq!(&State::restore(&state.snapshot()).unwrap(), state);
}
