//! Inputs that say something: the golden samples, real sessions, real journals. The committed corpora hold them all
//! (`UPDATE=1 cargo test -p farthing-tests --test fuzz_corpus` writes them), besides everything that ever failed.

use schemas::claim::ClaimCode;
use schemas::topic::Kind;

use super::messages::{information, key, verification};
use super::recovery::real_journals;
use super::session::step;

/// A name that says what it is, and the input.
pub type Seed = (String, Vec<u8>);

/// Those of one target.
pub fn seeds(target: &str) -> Vec<Seed> {
    match target {
        "messages" => messages(),
        "signed" => signed(),
        "topics" => topics(),
        "session" => sessions(),
        "recovery" => journals(),
        "cloud_config" => cloud_configs(),
        "agent_config" => agent_configs(),
        other => panic!("there is no target {other}"),
    }
}

fn seed(name: &str, bytes: impl Into<Vec<u8>>) -> Seed {
    (name.to_owned(), bytes.into())
}

/// `schemas/tests/golden.txt`: one sample of every message, in CBOR.
fn messages() -> Vec<Seed> {
    let golden = include_str!("../../../schemas/tests/golden.txt");
    let mut seeds = Vec::new();
    for line in golden.lines() {
        let Some((topic, hex)) = line.split_once(' ') else { continue };
        let Some((direction, kind)) = topic.split_once('/') else { continue };
        let Ok(kind) = kind.parse::<Kind>() else { continue };
        let number = Kind::ALL.iter().position(|known| *known == kind).unwrap();
        let direction_bits = if direction == "up" { 0 } else { 3 << 5 };
        let payload = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        let selector = u8::try_from(number).unwrap() | direction_bits;
        seeds.push(seed(&topic.replace('/', "-"), [&[selector], &payload[..]].concat()));
    }
    let claims = [
        ("map-that-claims-all-entries", &[0xBB, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF][..]),
        ("id-that-claims-4-gib", b"\xA1\x62id\x5B\0\0\0\0\xFF\xFF\xFF\xFF"),
        ("body-that-claims-an-endless-array", b"\xA1\x64body\x9F\x9F\x9F"),
        ("key-that-claims-4-gib", b"\xA1\x7B\0\0\0\0\xFF\xFF\xFF\xFFv"),
    ];
    seeds.extend(claims.map(|(name, payload)| seed(name, [&[0], payload].concat())));
    let deepest = [&[0], &[0x81; schemas::limits::PAYLOAD_BYTES][..]].concat();
    seeds.push(seed("arrays-in-arrays-of-8-kib", deepest));
    let json = br#"{"v": 1, "id": "01010101010101010101010101010101", "body": {"nonce": 7}}"#;
    let number = Kind::ALL.iter().position(|known| *known == Kind::CloudTime).unwrap();
    seeds.push(seed("json-cloud-time", [&[u8::try_from(number).unwrap() | 0xE0], &json[..]].concat()));
    seeds
}

fn signed() -> Vec<Seed> {
    let code = ClaimCode::generate([0xA5; 10], &[0x3C; 32]).to_string();
    // 2 bytes a level, each with the longest array that a reader may believe.
    let nested = |head: &[u8], levels: usize| [&[0], &head.repeat(levels)[..]].concat();
    vec![
        seed("payment-information", [&[0], &information().sign(&key()).0[..]].concat()),
        seed("verification", [&[1], &verification().sign(&key()).0[..]].concat()),
        seed("claim-code", [&[2], code.as_bytes()].concat()),
        seed("claim-code-as-typed", [&[2], code.to_lowercase().replace('-', " ").as_bytes()].concat()),
        seed("arrays-in-arrays", nested(&[0x81], 511)),
        seed("arrays-that-claim-1023-elements", nested(&[0x99, 0x03, 0xFF], 170)),
        seed("maps-that-claim-1023-entries", nested(&[0xB9, 0x03, 0xFF], 170)),
    ]
}

fn topics() -> Vec<Seed> {
    let texts = [
        ("up", "ft/acme/chip-7/up/health-check"),
        ("down", "ft/acme/chip-7/down/payment-status"),
        ("state", "ft/acme/chip-7/state"),
        ("feed", "ft/acme/feed/payment"),
        ("filter-all", "ft/acme/chip-7/down/#"),
        ("filter-any", "ft/acme/chip-7/down/+"),
        ("filter-kind", "ft/acme/chip-7/down/cloud-time"),
        ("filter-of-everybody", "ft/+/+/down/#"),
        ("principal", "acme/chip-7"),
        ("name", "a-name-of-32-bytes-0123456789abc"),
        ("amount", "12.50 EUR"),
        ("amount-of-yen", "1200 JPY"),
        ("amount-largest", "10000000000.00 EUR"),
        ("not-ascii", "ft/acme/é/up/health-check"),
    ];
    texts.map(|(name, text)| seed(name, text)).into()
}

const OPEN_V3: u8 = 4;
const OPEN_V5: u8 = 4 | 8;
const SMALL: u8 = 1;
const ALL: u8 = 0xFF;

fn sessions() -> Vec<Seed> {
    let bytes = |raw: &[u8]| {
        let chunks = raw.chunks(255).map(|raw| [&[step::BYTES, raw.len() as u8], raw].concat());
        chunks.collect::<Vec<_>>().concat()
    };
    let (yes, written) = ([step::STANDING, 2], [step::TRANSMITTED, ALL]);
    let mosquitto_v5 = data_encoding::HEXLOWER.decode(MOSQUITTO_V5.as_bytes()).unwrap();
    let mosquitto_v3 = data_encoding::HEXLOWER.decode(MOSQUITTO_V3.as_bytes()).unwrap();
    let mut seeds = vec![
        seed("mosquitto-v5", mosquitto(0, &mosquitto_v5, &bytes, &[yes, written].concat())),
        seed("mosquitto-v3", mosquitto(0, &mosquitto_v3, &bytes, &[yes, written].concat())),
        seed("nothing-but-length", vec![0, step::BYTES, 5, 0x10, 0xFF, 0xFF, 0xFF, 0x7F]),
        seed("length-without-end", vec![0, step::BYTES, 6, 0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]),
        seed("refused-by-the-core", vec![SMALL, step::CONNECT, 1, 2, 30, step::STANDING, 0]),
        seed("will-of-another", vec![SMALL, step::CONNECT, 1, 4, 30, 6, step::STANDING, 2]),
        seed("never-a-connect", vec![SMALL, step::TIME, 0xFF, 0xFF]),
    ];
    for (name, open) in [("v3", OPEN_V3), ("v5", OPEN_V5)] {
        seeds.push(seed(&format!("{name}-publish-promise"), published(open | SMALL)));
        seeds.push(seed(&format!("{name}-deliver-acknowledge"), delivered(open | SMALL)));
        let many: Vec<u8> = (1..9).flat_map(|id| [step::PUBLISH, 2, 0, id, 9]).collect();
        seeds.push(seed(&format!("{name}-over-receive-maximum"), [&[open | SMALL], &many[..]].concat()));
        let large = [open, step::BYTES, 4, 0x32, 0xFF, 0x40, 0, step::FILL, 0, 0x20, 0x80];
        seeds.push(seed(&format!("{name}-large-publish"), large));
        let idle = [open | SMALL, step::CONNECT, 1, 2, 1, step::TIME, 0xFF, 0xFF, step::TIME, 0xFF, 0xFF];
        seeds.push(seed(&format!("{name}-second-connect"), idle));
    }
    seeds
}

fn mosquitto(selector: u8, raw: &[u8], bytes: &dyn Fn(&[u8]) -> Vec<u8>, then: &[u8]) -> Vec<u8> {
    // CONNECT, which the core answers; PUBLISH, which it promises; DISCONNECT.
    let (connect, rest) = raw.split_at(usize::from(raw[1]) + 2);
    let (publish, disconnect) = rest.split_at(rest.len() - 2);
    let promised = [step::PROMISE, 0, 0];
    [&[selector][..], &bytes(connect), then, &bytes(publish), &promised, &then[2..], &bytes(disconnect)]
        .concat()
}

/// Three publishes, the promises in another order, one refused, one repeated, one foreign topic.
fn published(open: u8) -> Vec<u8> {
    let mut steps = vec![open];
    for id in 1..4 {
        steps.extend([step::PUBLISH, 2, 0, id, 20]);
    }
    steps.extend([step::PROMISE, 2, 0, step::PROMISE, 0, 0x97, step::PROMISE, 200, 0, step::PROMISE, 0, 0]);
    steps.extend([step::TRANSMITTED, ALL, step::PUBLISH, 0x0A, 0, 1, 20, step::PUBLISH, 2, 6, 9, 20]);
    steps.extend([step::PUBLISH, 2, 2, 7, 20, step::PUBLISH, 0, 1, 0, 4, step::OTHER_PACKET, 0xC0, 0]);
    steps.extend([step::PROMISE, 0, 0, step::TRANSMITTED, ALL, step::OTHER_PACKET, 0xE0, 0]);
    steps
}

/// Owed before the subscription and after it, more than the window, acknowledged late, refused, invented.
fn delivered(open: u8) -> Vec<u8> {
    let mut steps = vec![open];
    for kind in [3, 4, 9] {
        steps.extend([step::OWE, kind, 1, 200]);
    }
    steps.extend([step::SUBSCRIBE, 0, 1, 3, 1, step::ANSWER, 0, step::TRANSMITTED, ALL]);
    for kind in [6, 7, 8, 9] {
        steps.extend([step::OWE, kind, 2, 200]);
    }
    for _ in 0..6 {
        steps.extend([step::PUBACK, 0, 0, step::ANSWER, 0, step::TRANSMITTED, ALL]);
    }
    steps.extend([
        step::PUBACK,
        1,
        0x97,
        step::PUBACK,
        99,
        0,
        step::REPLY,
        9,
        40,
        step::SUBSCRIBE,
        0x80,
        2,
        3,
    ]);
    steps.extend([step::OWE, 3, 3, 255, step::ANSWER, 2, step::TIME, 0x7F, 0xFF, step::END, 1]);
    steps
}

/// What mosquitto_pub 2 sends: CONNECT, PUBLISH with QoS 1 to `ft/acme/chip-7/up/cloud-time`, DISCONNECT.
const MOSQUITTO_V5: &str = "102500044d51545405c2003c03210014000163000b61636d652f636869702d370005746f6b656e3226001c66742f61636d652f636869702d372f75702f636c6f75642d74696d6500010068656c6c6fe000";
const MOSQUITTO_V3: &str = "102100044d51545404c2003c000163000b61636d652f636869702d370005746f6b656e3225001c66742f61636d652f636869702d372f75702f636c6f75642d74696d65000168656c6c6fe000";

fn journals() -> Vec<Seed> {
    let flip = |place: u16| [&[1, 0][..], &place.to_be_bytes(), &[3]].concat();
    let raw = |name: &str, kind: u8, number: u8, content: &[u8]| {
        let length = (content.len() as u16).to_be_bytes();
        seed(name, [&[0, 0, 0, kind, number], &length[..], content].concat())
    };
    let forged = |which: u8, changes: &[u8]| [&[which | 4], changes].concat();
    // The newest snapshot of the second journal, with the largest number in one field (see `snapshot.rs`).
    let newest = u8::try_from(real_journals()[1].0.len() - 1).unwrap();
    let largest = |at: u8| [2, newest, 0, at, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    let nothing = |at: u8| [2, newest, 0, at, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    vec![
        seed("forged-snapshot-sequence", forged(2, &largest(24))),
        seed("forged-snapshot-segment", forged(2, &largest(32))),
        seed("forged-snapshot-offset", forged(2, &largest(40))),
        seed("forged-snapshot-offset-without-frame", forged(2, &[largest(40), nothing(48)].concat())),
        seed("forged-snapshot-segment-without-frame", forged(2, &[largest(32), nothing(48)].concat())),
        seed("forged-snapshot-frame", forged(2, &largest(48))),
        seed("forged-snapshot-length", forged(2, &largest(56))),
        seed("empty-directory", [0]),
        raw("segment-of-no-bytes", 0, 1, &[]),
        raw("segment-that-is-cut-off", 0, 1, b"FARTHJNL\x01\0\0\0"),
        raw("snapshot-alone", 2, 9, b"FARTHSNP\x01\0\0\0"),
        raw("leftover-alone", 3, 1, b"half"),
        seed("one-segment", [1]),
        seed("segments-and-snapshots", [2]),
        seed("torn-tail", [3]),
        seed("flip-in-a-header", [&[1], &flip(9)[..]].concat()),
        seed("flip-in-the-first-frame", [&[2], &flip(100)[..]].concat()),
        seed("flip-in-a-torn-journal", [&[3], &flip(300)[..]].concat()),
        seed("segment-cut-short", [2, 4, 1, 3, 0]),
        seed("segment-removed", [2, 7, 1]),
        seed("segment-under-another-number", [2, 8, 1, 0, 77]),
        seed("segment-twice", [2, 9, 0, 0, 200]),
        seed("segment-with-the-largest-number", [1, 9, 0, 0x80, 0]),
        seed("snapshot-of-the-largest-position", [2, 9, 200, 0x82, 0]),
        seed("forged-sequence", forged(1, &[2, 0, 0, 72, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF])),
        seed("forged-position", forged(1, &[2, 0, 0, 80, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF])),
        seed(
            "forged-synced-through",
            forged(1, &[2, 0, 0, 88, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),
        ),
        seed("forged-count", forged(1, &[2, 0, 0, 96, 4, 0xFF, 0xFF, 0xFF, 0xFF])),
    ]
}

fn cloud_configs() -> Vec<Seed> {
    let file = |name: &str, text: &str| seed(name, [&[0], text.as_bytes()].concat());
    let environment = |name: &str, text: &str| seed(name, [&[3], text.as_bytes()].concat());
    vec![
        file(
            "all-settings",
            "listen_tcp = \"127.0.0.1:0\"\nlisten_tls = \"off\"\nserver_names = [\"a.example\", \"::1\"]\nlog_format = \"json\"\nmax_connections = 100\nqueue_messages = 16\nbatch_messages = 1\nbank_timeout_ms = 10\njournal_segment_bytes = 1048576\nsnapshot_every_segments = 1000\n",
        ),
        file("not-loopback", "listen_tcp = \"0.0.0.0:1883\"\n"),
        file("segment-no-multiple-of-8", "journal_segment_bytes = 1048577\n"),
        file("segment-negative", "journal_segment_bytes = -1\n"),
        file("unknown-setting", "listen_tpc = \"127.0.0.1:0\"\n"),
        file("setting-twice", "log_format = \"text\"\nlog_format = \"json\"\n"),
        file("a-table", "[listen_tcp]\nport = 1\n"),
        file("arrays-in-arrays", &format!("server_names = {}", "[".repeat(2000))),
        file("not-utf-8-later", "log_filter = \"\\uD800\"\n"),
        environment("environment", "FARTHING_LISTEN_TCP=127.0.0.1:0\nFARTHING_MAX_CONNECTIONS=5\n"),
        environment("environment-unknown", "FARTHING_LISTEN=127.0.0.1:0\nPATH=/bin\n"),
    ]
}

fn agent_configs() -> Vec<Seed> {
    vec![
        seed(
            "agent",
            "broker = \"127.0.0.1:8883\"\nprofile = \"payment-chip\"\nprincipal = \"acme/chip-1\"\ntoken = \"0123456789abcdef0123456789abcdef\"\nkeep_alive_s = 30\n",
        ),
        seed("agent-unknown-key", "brokr = \"127.0.0.1:8883\"\n"),
        seed("agent-number-too-large", "keep_alive_s = 65536\n"),
        seed("profile-payment-chip", include_str!("../../../edge-agent/profiles/payment-chip.toml")),
        seed("profile-vending-executor", include_str!("../../../edge-agent/profiles/vending-executor.toml")),
        seed("tables-in-tables", format!("{}a = 1", "a.".repeat(3000))),
    ]
}
