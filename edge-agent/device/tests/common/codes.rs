//! Codes and places, and a piggy bank that has them.

use ed25519_dalek::SigningKey;
use edge_agent_device::{CodeRequest, Fix, Output};
use schemas::envelope::Envelope;
use schemas::ids::{MessageId, PaymentId};
use schemas::message::{
    Categories, CodeClaim, CodeClaims, PaymentCode, PaymentMode, Place, Places, PlacesAnswer, ShowCode,
};
use schemas::signed::{Catalogue, PublicKey};
use schemas::time::Timestamp;
use schemas::wire::Text;

use super::{Bench, EPOCH_MS, PIGGY_BANK, key};

/// In the middle of the school; 0.0005 degrees north of it are 56 metres.
pub(crate) const SCHOOL: (i32, i32) = (525_200_000, 134_000_000);

pub(crate) fn id(number: u8) -> PaymentId {
    PaymentId([number; 16])
}

pub(crate) fn cloud() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

pub(crate) fn categories(name: &str) -> Categories {
    Categories::new(vec![name.parse().unwrap()]).unwrap()
}

/// For lunch, shown when asked for, for a minute from `now` on.
pub(crate) fn code(number: u8, now: u64) -> PaymentCode {
    PaymentCode {
        payment: id(number),
        mode: PaymentMode::Qr,
        amount: "2.50 EUR".parse().unwrap(),
        payee: Text::new("Canteen"),
        code: Some(format!("FQ1:{number}").parse().unwrap()),
        contains: CodeClaims::new(vec![CodeClaim::Device]).unwrap(),
        child: "mia".parse().unwrap(),
        categories: categories("lunch"),
        place: None,
        show: ShowCode::OnRequest,
        check_place: true,
        places_version: 1,
        expires_at: Timestamp(EPOCH_MS + now + 60_000),
    }
}

pub(crate) fn at_once(number: u8, now: u64) -> PaymentCode {
    PaymentCode { show: ShowCode::AtOnce, ..code(number, now) }
}

pub(crate) fn token(number: u8, now: u64) -> PaymentCode {
    PaymentCode { mode: PaymentMode::Token, code: None, ..code(number, now) }
}

/// A school for lunch and a shop for toys 1.1 km north of it, both of 100 m.
pub(crate) fn catalogue(version: u64) -> Catalogue {
    let place = |name: &str, north: i32, category: &str| Place {
        place: name.parse().unwrap(),
        title: Text::new(format!("The {name}")),
        latitude_e7: SCHOOL.0 + north,
        longitude_e7: SCHOOL.1,
        radius_m: 100,
        categories: categories(category),
    };
    let places = vec![place("school", 0, "lunch"), place("shop", 100_000, "toys")];
    Catalogue { tenant: "acme".parse().unwrap(), version, places: Places::new(places).unwrap() }
}

pub(crate) fn answer(version: u64, key: &SigningKey) -> PlacesAnswer {
    let catalogue = Some(catalogue(version).sign(key).unwrap());
    PlacesAnswer { version, catalogue, signer: PublicKey::of(key) }
}

pub(crate) trait Piggy {
    fn code(&mut self, code: &PaymentCode);
    fn places(&mut self, answer: &PlacesAnswer);
    fn stand(&mut self, north: i32, accuracy_m: u32);
    fn ask(&mut self, number: u8) -> Vec<Output>;
}

impl Piggy for Bench {
    fn code(&mut self, code: &PaymentCode) {
        let id = MessageId::derived("code", &[&code.payment.0]);
        self.deliver("payment-code", &Envelope::message(id, code.clone()).encode());
    }

    fn places(&mut self, answer: &PlacesAnswer) {
        let payload = Envelope::message(MessageId([8; 16]), answer.clone()).encode();
        self.device.handle_message(None, "places", &payload, self.now);
    }

    fn stand(&mut self, north: i32, accuracy_m: u32) {
        let fix =
            Fix { latitude_e7: SCHOOL.0 + north, longitude_e7: SCHOOL.1, accuracy_m, at_boot_ms: self.now };
        self.device.handle_position(Some(fix), self.now);
    }

    fn ask(&mut self, number: u8) -> Vec<Output> {
        let request = CodeRequest { ticket: u64::from(number), payment: id(number) };
        self.device.handle_code_request(&request, self.now);
        self.settle()
    }
}

/// Connected, with places, in the middle of the school.
pub(crate) fn piggy() -> Bench {
    let mut bench = Bench::new(PIGGY_BANK);
    bench.device.handle_key(key());
    bench.connect_with_time();
    bench.places(&answer(1, &cloud()));
    bench.stand(0, 10);
    bench.settle();
    bench
}
