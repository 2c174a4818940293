//! What holds for every input.

use proptest::prelude::*;
use schemas::topic::Kind;

use super::{
    Hello, V3, V5, WHO, down, events, opened, opened_as, owed, packet, puback, publish, sent, subscribe, up,
    who,
};
use crate::*;

/// One step that surroundings may take.
#[derive(Debug, Clone)]
enum Step {
    Bytes(Vec<u8>),
    Standing(bool),
    Promise(u64, Promise),
    Owed(Vec<(u64, usize, usize)>),
    Reply(usize, usize),
    Wake,
    Transmit(usize),
    Timeout(u64),
    Poll,
}

fn a_packet() -> impl Strategy<Value = Vec<u8>> {
    let version = prop_oneof![Just(V3), Just(V5)];
    let topics =
        vec![up("health-check"), down("#"), format!("ft/{WHO}/state"), "é".into(), down("cloud-time")];
    let topic = prop::sample::select(topics);
    let whole = (version, topic, 0u16..4, 0u8..5, prop::collection::vec(any::<u8>(), 0..200)).prop_map(
        |(version, topic, id, which, payload)| match which {
            0 => Hello { version, ..Hello::default() }.bytes(),
            1 => publish(version, id, &topic, &payload),
            2 => subscribe(version, id, &[(&topic, (id % 3) as u8)]),
            3 => puback(id),
            _ => packet(0xC0, &[]),
        },
    );
    (whole, prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()))).prop_map(
        |(mut bytes, hit)| {
            if let Some((index, value)) = hit {
                let index = index.index(bytes.len());
                bytes[index] = value;
            }
            bytes
        },
    )
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => a_packet().prop_map(Step::Bytes),
        1 => prop::collection::vec(any::<u8>(), 0..300).prop_map(Step::Bytes),
        1 => any::<bool>().prop_map(Step::Standing),
        2 => (0u64..40, any::<u8>(), any::<bool>()).prop_map(|(token, code, kept)| {
            Step::Promise(token, if kept { Promise::Kept } else { Promise::Refused(code) })
        }),
        1 => prop::collection::vec((0u64..100, 0usize..12, 0usize..300), 0..60).prop_map(Step::Owed),
        1 => (0usize..12, 0usize..300).prop_map(|(kind, length)| Step::Reply(kind, length)),
        1 => Just(Step::Wake),
        2 => (0usize..500).prop_map(Step::Transmit),
        1 => (0u64..20_000).prop_map(Step::Timeout),
        2 => Just(Step::Poll),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// Whatever comes in whatever order: no panic, bounded memory, one `Closed`, and only whole packets go out.
    #[test]
    fn no_input_breaks_a_session(open in prop_oneof![Just(None), Just(Some(V3)), Just(Some(V5))],
                                 steps in prop::collection::vec(a_step(), 0..60)) {
        let limits = Limits {
            receive_maximum: 4, max_in_flight: 3, max_transmit_bytes: 256, max_skipped: 4, ..Limits::default()
        };
        let bound = limits.max_packet_bytes + limits.max_transmit_bytes + 300
            + 2 * (limits.max_transmit_bytes + 40 * (300 + 64));
        let mut session = match open {
            Some(version) => opened_as(&Hello { version, keep_alive_s: 30, ..Hello::default() }, limits),
            None => Session::new(ConnectionId(1), limits, 0),
        };
        let (mut now_ms, mut closed) = (0, 0);
        let (mut polled, mut transmitted) = (Vec::new(), 0);
        for step in steps.into_iter().chain([Step::Poll]) {
            let kind = |index: usize| Kind::ALL[index % Kind::ALL.len()];
            match step {
                Step::Bytes(bytes) => session.handle_bytes(now_ms, &bytes),
                Step::Standing(ok) => {
                    let standing = if ok { Ok(who()) } else { Err(ConnectRefusal::ServerBusy) };
                    session.handle_standing(now_ms, standing);
                }
                Step::Promise(token, promise) => session.handle_promise(PublishToken(token), promise),
                Step::Owed(entries) => {
                    let entry = |(sequence, index, length)| owed(sequence, kind(index), &vec![0; length]);
                    session.handle_owed(now_ms, entries.into_iter().map(entry).collect());
                }
                Step::Reply(index, length) => session.handle_reply(kind(index), vec![0; length]),
                Step::Wake => session.handle_wake(),
                Step::Transmit(count) => {
                    if let Some(bytes) = session.poll_transmit() {
                        polled.extend(bytes);
                    }
                    let count = count.min(polled.len() - transmitted);
                    transmitted += count;
                    session.handle_transmitted(now_ms, count);
                }
                Step::Timeout(after_ms) => {
                    now_ms += after_ms;
                    session.handle_timeout(now_ms);
                }
                Step::Poll => {
                    while let Some(event) = session.poll_event() {
                        closed += usize::from(matches!(event, Event::Closed { .. }));
                    }
                }
            }
            prop_assert!(session.buffered_bytes() <= bound, "{} > {bound}", session.buffered_bytes());
            prop_assert!(session.poll_timeout().is_none() || !session.is_closed());
        }
        if let Some(bytes) = session.poll_transmit() {
            polled.extend(bytes);
        }
        let mut rest = &polled[..];
        while let Some(frame) = crate::frame::split(rest, usize::MAX).unwrap() {
            rest = &rest[frame.length_bytes..];
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(closed, usize::from(session.is_closed()));
    }

    /// However the stream is cut, the same comes out.
    #[test]
    fn how_a_stream_is_cut_changes_nothing(packets in prop::collection::vec(a_packet(), 1..20), cut in 1usize..40) {
        let stream: Vec<u8> = packets.concat();
        let run = |chunk: usize| {
            let mut session = opened(V5);
            let mut all = Vec::new();
            let mut bytes = Vec::new();
            for chunk in stream.chunks(chunk) {
                session.handle_bytes(0, chunk);
                // A question to the core may come earlier or later.
                all.extend(events(&mut session).into_iter().filter(|event| !matches!(event, Event::Pull { .. })));
                bytes.extend(sent(&mut session));
            }
            (all, bytes)
        };
        prop_assert_eq!(run(stream.len()), run(cut));
    }
}
