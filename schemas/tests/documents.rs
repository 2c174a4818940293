//! The committed documents and golden samples are what the code says. To renew them after a deliberate change:
//! `UPDATE=1 cargo test -p schemas --test documents`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that compares files")]

use std::fs;
use std::path::PathBuf;

use schemas::document;
use schemas::envelope::Envelope;
use schemas::feed::*;
use schemas::ids::{Code, CommandId, Hash, IdempotencyKey, Instance, MessageId, Nonce, PaymentId, WishId};
use schemas::message::*;
use schemas::signed::{Catalogue, PublicKey, SignedCatalogue};
use schemas::time::Timestamp;
use schemas::topic::{FeedFormat, FeedKind, Kind};
use schemas::wire::{SignedBytes, Text};

fn compare(name: &str, content: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == content,
        "{name} is not what the code says; renew it: UPDATE=1 cargo test -p schemas --test documents"
    );
}

#[test]
fn cddl_is_what_the_code_says() {
    compare("farthing.cddl", &document::cddl());
}

#[test]
fn asyncapi_is_what_the_code_says() {
    let text = serde_json::to_string_pretty(&document::asyncapi()).unwrap();
    compare("asyncapi.json", &(text + "\n"));
}

fn categories() -> Categories {
    Categories::new(vec!["lunch".parse().unwrap(), "sweets".parse().unwrap()]).unwrap()
}

fn goals() -> Goals {
    let goal = Goal { title: Text::new("A scooter"), amount: "50.00 EUR".parse().unwrap() };
    Goals::new(vec![goal]).unwrap()
}

/// One sample of every message in both directions.
fn samples() -> (Vec<Envelope<Up>>, Vec<Envelope<Down>>) {
    let (id, key) = (MessageId([1; 16]), IdempotencyKey([2; 16]));
    let (payment, command) = (PaymentId([3; 16]), CommandId([4; 16]));
    let (at, signed) = (Timestamp(1_795_300_200_250), SignedBytes(vec![0xd2, 0x84]));
    let amount = "2.50 EUR".parse().unwrap();
    let code = || Some(Code::known("jammed"));
    let request = |body| Envelope::request(id, key, at, body);
    let message = |body| Envelope::message(id, body);
    let up = vec![
        request(Up::PaymentRequest(PaymentRequest { information: signed.clone() })),
        request(Up::PaymentCancel(PaymentCancel { payment })),
        request(Up::PaymentRefund(PaymentRefund { payment })),
        message(Up::HealthCheck(HealthCheckAnswer {
            payment,
            verdict: HealthVerdict::NotReady,
            code: code(),
        })),
        message(Up::PaymentVerification(VerificationAnswer { verification: signed })),
        message(Up::ExecutorCommand(ExecutorOutcome {
            command,
            outcome: Outcome::DoneInPart,
            delivered: 2,
            code: code(),
        })),
        message(Up::CommandStatus(CommandStatusAnswer {
            command,
            progress: CommandProgress::Ended,
            outcome: Some(Outcome::Done),
            delivered: 3,
            code: None,
        })),
        message(Up::CloudTime(CloudTimeRequest { nonce: 7 })),
        message(Up::StatusRequest(StatusRequest { payment: None })),
        message(Up::DeviceReport(DeviceReport {
            version: Text::new("0.1.0"),
            uptime_ms: 600_000,
            spool: 2,
            dead_letters: 1,
            not_ready: Some(Code::known("tampered")),
        })),
        message(Up::Refused(refused())),
        request(Up::PaymentOrder(PaymentOrder {
            child: "mia".parse().unwrap(),
            amount,
            minimum: Some("1.00 EUR".parse().unwrap()),
            categories: categories(),
            payee: Some("merchant/canteen".parse().unwrap()),
            note: Some(Text::new("Lunch")),
            tell: Some(ResultTo::Both),
            mode: Some(PaymentMode::Qr),
            place: Some("school".parse().unwrap()),
            show: Some(ShowCode::OnRequest),
            contains: Some(code_claims()),
            identify: Some(true),
            wish: Some(WishId([8; 16])),
        })),
        message(Up::PaymentPrompt(PromptAnswer {
            payment,
            answer: ChildAnswer::Confirm,
            position: Some(Position {
                latitude_e7: 525_200_080,
                longitude_e7: 134_049_540,
                accuracy_m: 12,
                at,
            }),
            identified: Some(true),
        })),
        request(Up::PaymentScan(PaymentScan {
            code: "FQ1:6BF+70790".parse().unwrap(),
            amount: Some(amount),
            scanned_at: at,
        })),
        message(Up::Places(PlacesRequest { version: 1 })),
        request(Up::ChildLimits(ChildLimits {
            child: "mia".parse().unwrap(),
            per_payment: Some(amount),
            per_day: None,
            per_category_and_day: CategoryAmounts::new([("sweets".parse().unwrap(), amount)].into()).unwrap(),
            quiet_hours: Some("21:00-07:00".parse().unwrap()),
        })),
        request(Up::ChildAllowance(ChildAllowance {
            child: "mia".parse().unwrap(),
            schedule: Some(AllowanceSchedule { amount, every: Every::Week, first_at: at }),
        })),
        request(Up::SavingsGoals(SavingsGoals { child: "mia".parse().unwrap(), goals: goals() })),
        message(Up::Wish(Wish {
            wish: WishId([8; 16]),
            child: "mia".parse().unwrap(),
            to: "dad".parse().unwrap(),
            text: Text::new("I want a scooter for 50 euros"),
        })),
        message(Up::WishWithdraw(WishWithdraw { wish: WishId([8; 16]) })),
        request(Up::WishDecline(WishDecline {
            child: "mia".parse().unwrap(),
            wish: WishId([8; 16]),
            reason: Text::new("You have one"),
        })),
        request(Up::OwnPayment(OwnPayment {
            amount,
            payee: "merchant/canteen".parse().unwrap(),
            categories: categories(),
            note: Some(Text::new("Lunch")),
        })),
        request(Up::SuggestionAnswer(SuggestionAnswer { payment, child: Some("mia".parse().unwrap()) })),
    ];
    let message = |body| Envelope::message(id, body);
    let down = vec![
        message(Down::RequestAnswer(RequestAnswer {
            key,
            payment: Some(payment),
            refused: None,
            text: Text::new("accepted"),
        })),
        message(Down::HealthCheck(HealthCheckRequest {
            payment,
            nonce: Nonce([5; 8]),
            information_hash: Hash([6; 32]),
            answer_by: at,
        })),
        message(Down::PaymentVerification(VerificationRequest {
            payment,
            payee: Text::new("Snacks & Co"),
            amount,
            item: "water".parse().unwrap(),
            quantity: 1,
            answer_by: at,
        })),
        message(Down::PaymentStatus(PaymentStatus {
            payment,
            state: PaymentState::DeliveredInPart,
            amount,
            paid: "1.00 EUR".parse().unwrap(),
            delivered: 2,
            quantity: 5,
            reason: code(),
            text: Text::new("2 of 5 were delivered."),
            at,
        })),
        message(Down::ExecutorCommand(ExecutorCommand {
            command,
            payment,
            instance: Instance(1),
            item: "water".parse().unwrap(),
            quantity: 1,
            start_by: at,
        })),
        message(Down::CommandStatus(CommandStatusRequest { command })),
        message(Down::CloudTime(CloudTimeAnswer { nonce: 7, now: at })),
        message(Down::Refused(refused())),
        message(Down::PaymentPrompt(PaymentPrompt {
            payment,
            child: "mia".parse().unwrap(),
            guardian: "dad".parse().unwrap(),
            payee: Text::new("Canteen"),
            amount,
            ordered: "3.00 EUR".parse().unwrap(),
            categories: categories(),
            note: None,
            answer_by: at,
            mode: Some(PaymentMode::Qr),
            identify: None,
        })),
        message(Down::PaymentCode(PaymentCode {
            payment,
            mode: PaymentMode::Qr,
            amount,
            payee: Text::new("Canteen"),
            code: Some("FQ1:6BF+70790".parse().unwrap()),
            contains: code_claims(),
            child: "mia".parse().unwrap(),
            categories: categories(),
            place: Some("school".parse().unwrap()),
            show: ShowCode::AtOnce,
            check_place: true,
            places_version: 2,
            expires_at: at,
        })),
        message(Down::Places(PlacesAnswer {
            version: 2,
            catalogue: Some(catalogue()),
            signer: PublicKey([7; 32]),
        })),
        message(Down::ChildView(ChildView {
            child: "mia".parse().unwrap(),
            available: amount,
            as_of: at,
            goals: goals(),
            allowances: ComingAllowances::new(vec![ComingAllowance {
                guardian: "dad".parse().unwrap(),
                amount,
                every: Every::Month,
                next_at: at,
            }])
            .unwrap(),
            wishes: Some(ShownWishes::new(vec![shown_wish()]).unwrap()),
            results: Some(
                ShownResults::new(vec![ShownResult {
                    what: Text::new("Lunch"),
                    amount,
                    state: PaymentState::Settled,
                    at,
                }])
                .unwrap(),
            ),
        })),
        message(Down::Wish(WishNotice {
            wish: WishId([8; 16]),
            child: "mia".parse().unwrap(),
            text: Text::new("I want a scooter for 50 euros"),
            keywords: Keywords::new(vec![Text::new("scooter")]).unwrap(),
            amount: Some("50.00 EUR".parse().unwrap()),
            kind: WishKind::Purchase,
            state: WishState::Open,
            at,
        })),
        message(Down::PaySuggestion(PaySuggestion {
            payment,
            amount,
            payee: "merchant/canteen".parse().unwrap(),
            children: Names::new(vec!["mia".parse().unwrap()]).unwrap(),
            answer_by: at,
        })),
    ];
    (up, down)
}

fn shown_wish() -> ShownWish {
    ShownWish {
        wish: WishId([8; 16]),
        to: "dad".parse().unwrap(),
        text: Text::new("I want a scooter for 50 euros"),
        state: WishState::Declined,
        reason: Some(Text::new("You have one")),
    }
}

fn code_claims() -> CodeClaims {
    CodeClaims::new(vec![CodeClaim::Device, CodeClaim::Category]).unwrap()
}

fn catalogue() -> SignedCatalogue {
    let place = Place {
        place: "school".parse().unwrap(),
        title: Text::new("School canteen"),
        latitude_e7: 525_200_000,
        longitude_e7: 134_000_000,
        radius_m: 100,
        categories: categories(),
    };
    let places = Places::new(vec![place]).unwrap();
    let catalogue = Catalogue { tenant: "acme".parse().unwrap(), version: 2, places };
    catalogue.sign(&ed25519_dalek::SigningKey::from_bytes(&[7; 32])).unwrap()
}

fn refused() -> Refused {
    Refused {
        message: Some(MessageId([1; 16])),
        about: Some(Code::known("health_check")),
        code: Code::known("payload_invalid"),
        text: Text::new("not the expected CBOR"),
    }
}

/// The bytes of every message are pinned: a change breaks devices in the field.
#[test]
fn golden_samples_are_pinned_and_read_back() {
    let (up, down) = samples();
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let mut golden = String::new();
    for sample in &up {
        let (kind, bytes) = (sample.body.kind(), sample.encode());
        assert_eq!(Up::decode(kind, &bytes).as_ref(), Ok(sample));
        let json = serde_json::to_vec(sample).unwrap();
        assert_eq!(Up::decode_json(kind, &json).as_ref(), Ok(sample), "a person may write the same as JSON");
        golden += &format!("up/{kind} {}\n", hex(&bytes));
    }
    for sample in &down {
        let (kind, bytes) = (sample.body.kind(), sample.encode());
        assert_eq!(Down::decode(kind, &bytes).as_ref(), Ok(sample));
        golden += &format!("down/{kind} {}\n", hex(&bytes));
    }
    let kinds = |may: fn(Kind) -> bool| Kind::ALL.iter().filter(|kind| may(**kind)).count();
    assert_eq!(
        (up.len(), down.len()),
        (kinds(Kind::may_go_up), kinds(Kind::may_go_down)),
        "one sample of each"
    );
    for event in feed_samples() {
        let (kind, bytes) = (event.kind(), event.encode(FeedFormat::Cbor));
        assert_eq!(FeedEvent::decode(kind, &bytes).as_ref(), Ok(&event));
        golden += &format!("feed/{} {}\n", kind.as_str(), hex(&bytes));
        let json = String::from_utf8(event.encode(FeedFormat::Json)).unwrap();
        golden += &format!("feed/json/{} {json}\n", kind.as_str());
    }
    assert_eq!(feed_samples().map(|event| event.kind()).as_slice(), FeedKind::ALL, "one sample of each");
    compare("tests/golden.txt", &golden);
}

fn feed_samples() -> [FeedEvent; 5] {
    let (payment, at) = (PaymentId([3; 16]), Timestamp(1_795_300_200_250));
    let principal: schemas::ids::Principal = "acme/chip-7".parse().unwrap();
    [
        FeedEvent::Payment(PaymentEvent {
            payment,
            state: PaymentState::Delivered,
            merchant: "snacks".parse().unwrap(),
            chip: principal.clone(),
            item: "water".parse().unwrap(),
            quantity: 1,
            delivered: 1,
            amount: "1.50 EUR".parse().unwrap(),
            paid: "1.50 EUR".parse().unwrap(),
            reason: None,
            opened_at: at,
            at,
        }),
        FeedEvent::Exception(ExceptionEvent {
            payment,
            case: Some(Code::known("refund_blocked")),
            change: ExceptionChange::Raised,
            at,
        }),
        FeedEvent::Device(DeviceEvent {
            device: principal.clone(),
            change: DeviceChange::Enrolled,
            instance: Some(Instance(1)),
            at,
        }),
        FeedEvent::Presence(PresenceEvent {
            principal,
            presence: PresenceState::Connected,
            since: Some(at),
            said: Some(Text::new("ready")),
        }),
        FeedEvent::Lost(LostEvent { count: 17 }),
    ]
}

/// Bad input has one clear answer each, and never a panic (storage.md, CBOR).
#[test]
fn malformed_payloads_are_refused_by_name() {
    let good = samples().0.swap_remove(7).encode();
    let code = |bytes: &[u8]| Up::decode(Kind::CloudTime, bytes).map_err(|error| error.code());
    assert!(code(&good).is_ok());
    let mut trailing = good.clone();
    trailing.push(0);
    let too_large = vec![0; schemas::limits::PAYLOAD_BYTES + 1];
    let deep = vec![0x81; 4_000];
    let bomb = [0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    for (name, bytes) in [("trailing", &trailing[..]), ("empty", &[]), ("deep", &deep), ("bomb", &bomb)] {
        assert_eq!(code(bytes), Err("payload_invalid"), "{name}");
    }
    assert_eq!(code(&too_large), Err("payload_too_large"));
    let json = |text: &str| Up::decode_json(Kind::CloudTime, text.as_bytes()).map_err(|error| error.code());
    let id = "01010101010101010101010101010101";
    assert_eq!(json(&format!(r#"{{"v":2,"id":"{id}","news":1,"body":{{}}}}"#)), Err("version_unknown"));
    assert_eq!(
        json(&format!(r#"{{"v":1,"id":"{id}","body":{{"nonce":1}},"extra":1}}"#)),
        Err("payload_invalid")
    );
    assert_eq!(json(&format!(r#"{{"v":1,"v":1,"id":"{id}","body":{{"nonce":1}}}}"#)), Err("payload_invalid"));
    assert_eq!(json(&format!(r#"{{"v":1,"id":"{id}","body":{{"nonce":1.5}}}}"#)), Err("payload_invalid"));
    assert!(
        json(&format!(r#"{{"v":1,"id":"{id}","key":null,"not_after":null,"body":{{"nonce":1}}}}"#)).is_ok()
    );
    let no_key = format!(r#"{{"v":1,"id":"{id}","body":{{"payment":"{id}"}}}}"#);
    let refused = Up::decode_json(Kind::PaymentCancel, no_key.as_bytes()).map_err(|error| error.code());
    assert_eq!(refused, Err("not_a_request"));
    assert_eq!(
        Up::decode(Kind::PaymentStatus, &good).map_err(|error| error.code()),
        Err("direction_invalid")
    );
}

/// A map that names a key twice is refused, in whatever order.
#[test]
fn duplicate_keys_in_cbor_are_refused() {
    // {"nonce": 7, "nonce": 7} in the place of {"nonce": 7}
    let good = samples().0.swap_remove(7).encode();
    let needle = b"\xa1enonce\x07";
    let needle = [&needle[..1], b"\x65", &needle[2..]].concat();
    let at = good.windows(needle.len()).position(|window| window == needle).unwrap();
    let double = b"\xa2\x65nonce\x07\x65nonce\x07";
    let bad = [&good[..at], double, &good[at + needle.len()..]].concat();
    let code = Up::decode(Kind::CloudTime, &bad).map_err(|error| error.code());
    assert_eq!(code, Err("payload_invalid"));
}
