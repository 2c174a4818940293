//! Places where children may pay, and how long a code is valid on the way there (PC-6, PC-9).

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use cloud_core_flows::admin::{AdminAnswer, AdminCommand, Filter, Listing};
use cloud_core_flows::places::{CodeRules, CodeRulesChange, RegisteredPlace};
use common::codes::{
    NEAR, PRICE, code_of, confirm, moved, ordered, presenting, qr, refused, scan, set, shown, world,
};
use common::family::{categories, entry};
use common::{START, World, signing_key, who};
use proptest::prelude::*;
use schemas::envelope::Envelope;
use schemas::ids::MessageId;
use schemas::message::{
    Down, PaymentCancel, PaymentOrder, PlacesAnswer, PlacesRequest, Position, ShowCode, Up,
};
use schemas::signed::{Catalogue, PublicKey};
use schemas::topic::Kind;
use schemas::wire::Text;

/// PC-6: the order's place, or the nearest one where the payment counts; without place or position the default.
#[test]
fn a_code_lasts_as_long_as_the_way() {
    let at = |latitude_e7| Some(Position { latitude_e7, ..NEAR });
    let mut far = entry("far", "shop", &["bob"]);
    far.place.latitude_e7 = 525_500_000;
    let place = |name: &str| Some(name.parse().unwrap());
    for (position, named, lasts_ms) in [
        (None, None, 600_000),
        // 5 m are how wrong the position may be.
        (Some(NEAR), None, 405_000),
        (at(525_200_000), None, 305_000),
        (at(550_000_000), None, 3_600_000),
        // 3,038 m to the border of `far`, the only place where it counts.
        (Some(NEAR), place("far"), 3_343_000),
        (at(525_500_000), place("far"), 305_000),
        (at(525_500_000), None, 305_000),
    ] {
        let mut w = world();
        set(&mut w, far.clone()).unwrap();
        let payment = ordered(&mut w, 1, PaymentOrder { place: named.clone(), ..qr() });
        confirm(&mut w, payment, position, None);
        let code = code_of(&mut w, payment);
        let lasts = code.expires_at.0 - w.now;
        assert!(lasts.abs_diff(lasts_ms) <= 1_000, "{position:?} {named:?}: {lasts}");
        assert_eq!(code.expires_at.0 % 1_000, 0, "as a code says it");
        w.pass(lasts + 15_000);
        moved(&mut w, 0);
    }
}

proptest! {
    /// PC-6: never outside the bounds, and never shorter for a longer way.
    #[test]
    fn validity_is_bounded_and_grows_with_the_way(
        least_ms in 1_000..100_000_u64, more_ms in 0..10_000_000_u64, pace_mm_per_s in 1..100_000_u64,
        margin_ms in 0..1_000_000_u64, near in 0..u64::MAX, far in 0..u64::MAX,
    ) {
        let most_ms = least_ms + more_ms;
        let rules = CodeRules { default_ms: least_ms, least_ms, most_ms, pace_mm_per_s, margin_ms, ..CodeRules::default() };
        let (near, far) = (near.min(far), near.max(far));
        let valid = [near, far].map(|distance_m| rules.valid_ms(Some(distance_m)));
        prop_assert!(valid[0] <= valid[1]);
        prop_assert!(valid.iter().all(|ms| (least_ms..=most_ms).contains(ms)));
        prop_assert_eq!(rules.valid_ms(None), least_ms);
    }
}

/// PC-6, PC-9: a tenant has rules of its own; they hold for codes that are made from then on.
#[test]
fn a_tenants_rules_make_its_codes() {
    let mut w = world();
    let change = |code_rules| AdminCommand::ChangeTenant {
        tenant: "acme".parse().unwrap(),
        bank_url: None,
        on_unknown: None,
        deadlines: Default::default(),
        code_rules,
        child_keep_minor: None,
    };
    for bad in [
        CodeRulesChange { default_ms: Some(1), ..Default::default() },
        CodeRulesChange { least_ms: Some(0), ..Default::default() },
        CodeRulesChange { most_ms: Some(8 * 24 * 3_600_000), ..Default::default() },
        CodeRulesChange { pace_mm_per_s: Some(0), ..Default::default() },
    ] {
        assert_eq!(w.admin(change(bad)).unwrap_err().code.as_str(), "code_rules_invalid", "{bad:?}");
    }
    let rules =
        CodeRulesChange { default_ms: Some(200_000), check_at_once: Some(false), ..Default::default() };
    w.admin(change(rules)).unwrap();
    let code = presenting(&mut w, 1, PaymentOrder { show: Some(ShowCode::OnRequest), ..qr() });
    assert_eq!((code.check_place, code.show), (false, ShowCode::OnRequest));
    assert_eq!(code.expires_at.0 - w.now, 200_000);
    w.pass(215_000);
    moved(&mut w, 0);
}

/// PC-9: piggy banks pull the places, signed, if they have another version.
#[test]
fn piggy_banks_are_told_the_places_of_their_tenant() {
    let mut w = world();
    let ask = |w: &mut World, name: &str, version: u64| -> Option<PlacesAnswer> {
        let id = MessageId([3; 16]);
        let payload = Envelope::message(id, PlacesRequest { version }).encode();
        let (promise, replies) = w.publish(name, Kind::Places, payload);
        replies.into_iter().find_map(|down| match down {
            Down::Places(answer) if promise.is_ok() => Some(answer),
            _ => None,
        })
    };
    let answer = ask(&mut w, "piggy", 0).unwrap();
    let first = answer.version;
    assert!(first >= START, "at least the time of the change: a restore brings no version again");
    assert_eq!((answer.version, answer.signer), (first, PublicKey::of(&signing_key("cloud"))));
    let catalogue = Catalogue::verify(answer.catalogue.as_ref().unwrap(), &answer.signer).unwrap();
    assert_eq!((catalogue.version, catalogue.places.iter().count()), (first, 4));
    assert_eq!(ask(&mut w, "piggy", first).unwrap().catalogue, None, "it has them");
    assert!(
        ask(&mut w, "piggy", first + 1).unwrap().catalogue.is_some(),
        "of a core that was restored since"
    );
    assert_eq!(ask(&mut w, "mum", 0), None, "people are not told");
    remove(&mut w, "gym").unwrap();
    let answer = ask(&mut w, "piggy", first).unwrap();
    let second = answer.version;
    assert!(second > first, "higher with each change");
    remove(&mut w, "gym").unwrap();
    assert_eq!(ask(&mut w, "piggy", second).unwrap().version, second, "not with a repeat");
    w.finish();
}

fn remove(w: &mut World, place: &str) -> Result<(), String> {
    let command =
        AdminCommand::RemovePlace { tenant: "acme".parse().unwrap(), place: place.parse().unwrap() };
    w.admin(command).map(|_| ()).map_err(|why| why.code.to_string())
}

/// CP-15, PC-9: places are checked, changed, listed and removed; what they name is not deleted.
#[test]
fn operators_register_places() {
    let mut w = world();
    let with = |change: fn(&mut RegisteredPlace)| {
        let mut new = entry("park", "shop", &["bob"]);
        change(&mut new);
        new
    };
    for (code, new) in [
        ("merchant_unknown", with(|e| e.merchant = "nobody".parse().unwrap())),
        ("principal_unknown", with(|e| e.terminals = ["nobody".parse().unwrap()].into())),
        ("terminals_invalid", with(|e| e.terminals.clear())),
        ("terminal_taken", with(|e| e.terminals = ["till".parse().unwrap()].into())),
        ("title_invalid", with(|e| e.place.title = Text::new(""))),
        ("radius_invalid", with(|e| e.place.radius_m = 0)),
        ("position_invalid", with(|e| e.place.latitude_e7 = 900_000_001)),
        ("position_invalid", with(|e| e.place.longitude_e7 = -1_800_000_001)),
    ] {
        assert_eq!(set(&mut w, new), refused(code));
    }
    let version = |w: &World| w.driver.cloud().registry().places_version(&"acme".parse().unwrap());
    set(&mut w, with(|_| {})).unwrap();
    let known = version(&w);
    set(&mut w, with(|_| {})).unwrap();
    assert_eq!(version(&w), known, "a repeat changes nothing");
    let find = AdminCommand::Find { listing: Listing::Places, filter: Filter::default() };
    let Ok(AdminAnswer::Places(rows)) = w.admin(find) else { panic!() };
    assert_eq!((rows.len(), rows[2].entry.clone(), rows[2].version), (5, with(|_| {}), known));
    let (tenant, merchant) = ("acme".parse().unwrap(), "kiosk".parse().unwrap());
    for command in [
        AdminCommand::DeleteMerchant { tenant, merchant },
        AdminCommand::DeletePerson { person: who("bob") },
        AdminCommand::DeleteDevice { device: who("spare") },
    ] {
        assert_eq!(w.admin(command.clone()).unwrap_err().code.as_str(), "still_bound", "{command:?}");
    }
    let named = Some("gym".parse().unwrap());
    let payment = ordered(&mut w, 1, PaymentOrder { place: named, ..qr() });
    assert_eq!(remove(&mut w, "gym"), refused("open_work"), "a payment counts there only");
    remove(&mut w, "school").unwrap();
    w.request("mum", 2, Up::PaymentCancel(PaymentCancel { payment }));
    remove(&mut w, "gym").unwrap();
    moved(&mut w, 0);
}

/// PC-9: all places fit the one message in which piggy banks hear of them.
#[test]
fn places_are_bounded_by_what_one_message_holds() {
    let mut w = world();
    w.restores_after_each_input = false;
    let mut result = Ok(());
    let mut count = 4;
    while result.is_ok() {
        let terminal = format!("t-{count}");
        let person = who(&terminal);
        w.admin(AdminCommand::CreatePerson { person, public_key: None, bank_account: None }).unwrap();
        let mut new = entry(&format!("place-{count}"), "shop", &[&terminal]);
        let long: Vec<String> = (0..8).map(|n| format!("category-with-a-long-name-{n}")).collect();
        new.place.categories = categories(&long.iter().map(String::as_str).collect::<Vec<_>>());
        result = set(&mut w, new);
        count += 1;
    }
    assert_eq!(result, refused("places_full"));
    assert!((10..32).contains(&count), "{count}");
    let code = presenting(&mut w, 1, qr());
    let text = shown(&w, &code);
    assert_eq!(scan(&mut w, "till", 2, &text), Ok(code.payment));
    moved(&mut w, PRICE);
}
