//! A family: two children with a piggy bank and 20.00 EUR each, their guardians, and somebody who is none.

use cloud_core_flows::admin::{AdminCommand, BankKind, OnUnknown};
use cloud_core_flows::children::Bonds;
use cloud_core_flows::places::RegisteredPlace;
use schemas::message::{Categories, Place};
use schemas::money::Money;
use schemas::wire::Text;

use super::{World, who};

/// What each child has at first, in minor units.
pub(crate) const HAS: u64 = 2_000;

/// Mia (piggy bank `piggy`) and Leo (`piggy2`), guarded by Mum and Dad; Ann is nobody's guardian.
pub(crate) fn family() -> World {
    let mut w = World::new(BankKind::Internal, OnUnknown::Refund);
    for person in ["mia", "leo", "mum", "dad"] {
        let command =
            AdminCommand::CreatePerson { person: who(person), public_key: None, bank_account: None };
        w.admin(command).unwrap();
    }
    for child in ["mia", "leo"] {
        w.admin(AdminCommand::Deposit { person: who(child), amount: eur(HAS), reference: "first".into() })
            .unwrap();
    }
    for device in ["piggy", "piggy2", "piggy3"] {
        let profile = "piggy-bank".to_owned();
        w.admin(AdminCommand::CreateDevice { device: who(device), profile, longest_act_ms: 0 }).unwrap();
        w.enrol(device, 1);
    }
    bind(&mut w, "mia", bonds(&["mum", "dad"], Some("piggy"))).unwrap();
    bind(&mut w, "leo", bonds(&["mum"], Some("piggy2"))).unwrap();
    for name in ["mum", "dad", "piggy", "piggy2", "piggy3"] {
        w.connect(name);
    }
    w
}

pub(crate) fn eur(minor: u64) -> Money {
    "EUR".parse::<schemas::money::Currency>().unwrap().minor(minor)
}

pub(crate) fn bonds(guardians: &[&str], piggy_bank: Option<&str>) -> Bonds {
    Bonds {
        guardians: guardians.iter().map(|name| name.parse().unwrap()).collect(),
        piggy_bank: piggy_bank.map(|name| name.parse().unwrap()),
        receiving: None,
        time_zone: "Europe/Berlin".to_owned(),
    }
}

pub(crate) fn bind(w: &mut World, child: &str, bonds: Bonds) -> Result<(), String> {
    let reply = w.admin(AdminCommand::BindChild { child: who(child), bonds });
    reply.map(|_| ()).map_err(|why| why.code.to_string())
}

pub(crate) fn categories(names: &[&str]) -> Categories {
    Categories::new(names.iter().map(|name| name.parse().unwrap()).collect()).unwrap()
}

/// A place of 100 m around 52.52 N, 13.40 E that takes lunch and fruit.
pub(crate) fn entry(place: &str, merchant: &str, terminals: &[&str]) -> RegisteredPlace {
    RegisteredPlace {
        place: Place {
            place: place.parse().unwrap(),
            title: Text::new(format!("The {place}")),
            latitude_e7: 525_200_000,
            longitude_e7: 134_000_000,
            radius_m: 100,
            categories: categories(&["lunch", "fruit"]),
        },
        merchant: merchant.parse().unwrap(),
        terminals: terminals.iter().map(|name| name.parse().unwrap()).collect(),
    }
}
