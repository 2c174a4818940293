//! The operators' desk: registering, paying in, revoking, resolving (CP-15). Changing and deleting is in `upkeep.rs`,
//! looking in `listing.rs`.

use schemas::ids::{Code, Hash, Instance, Principal};
use schemas::message::Outcome;
use schemas::money::Money;
use schemas::signed::PublicKey;
use schemas::time::Timestamp;

use crate::admin::{AdminAnswer, AdminCommand, AdminReply, BankKind, Presence};
use crate::books;
use crate::child::ChildFlow;
use crate::chip::ChipFlow;
use crate::cloud::Cloud;
use crate::decision::Decision;
use crate::event::Event;
use crate::limits;
use crate::payment::Phase;
use crate::port::{Proof, SignOrder};
use crate::registry::{Registry, Standing, Tenant, check_text};
use crate::rejection::Rejection;
use crate::{listing, upkeep};

/// Carries out one command. `presence` says who is connected, which no journal knows.
pub(crate) fn decide(
    cloud: &Cloud,
    command: &AdminCommand,
    presence: &dyn Fn(&Principal) -> Presence,
    now: Timestamp,
    out: &mut Decision,
) -> AdminReply {
    match command {
        AdminCommand::Deposit { person, amount, reference } => {
            deposit(cloud, person, *amount, reference, now, out)
        }
        AdminCommand::RevokeDevice { device } => revoke(cloud, device, now, out),
        AdminCommand::ResolvePayment { payment, resolution } => {
            ChipFlow { cloud, now, out }.resolve(*payment, *resolution).map(|()| AdminAnswer::Done)
        }
        AdminCommand::Withdraw { tenant, account, amount, reference } => {
            upkeep::withdraw(cloud, (tenant, account), *amount, reference, now, out)
        }
        AdminCommand::Drain { per_second, reference } => {
            let is_bad = |text: &String| text.is_empty() || text.chars().any(|c| !c.is_ascii_graphic());
            if *per_second > limits::DRAINED_PER_SECOND || reference.as_ref().is_some_and(is_bad) {
                let text = "end at most 100,000 connections a second, and name the other server as host:port";
                return Err(Rejection::new("drain_invalid", text));
            }
            reference.as_ref().map_or(Ok(()), |text| check_text(text))?;
            out.event(Event::Registered(command.clone()));
            Ok(AdminAnswer::Done)
        }
        AdminCommand::Find { .. }
        | AdminCommand::ListOutbox { .. }
        | AdminCommand::ListTenants
        | AdminCommand::ListDevices
        | AdminCommand::ListPersons
        | AdminCommand::ListMerchants
        | AdminCommand::ListAccounts
        | AdminCommand::ListPayments { .. }
        | AdminCommand::ListExceptions
        | AdminCommand::Books
        | AdminCommand::ReadHistory => Ok(listing::look(cloud, command, presence)),
        _ => upkeep::decide(cloud, command, now, out),
    }
}

/// Creates or binds, upon `registry`.
pub(crate) fn register(
    cloud: &Cloud,
    registry: &Registry,
    command: &AdminCommand,
    now: Timestamp,
    out: &mut Decision,
) -> Result<(), Rejection> {
    if !registry.check(command, now)? {
        return Ok(());
    }
    for account in books::accounts_of(command, registry) {
        let opened = cloud.ledger.decide_open_account(&account, now.0);
        let events = opened.map_err(|why| {
            Rejection::new("account_refused", format!("the books refuse the account: {why}"))
        })?;
        out.events.extend(events.into_iter().map(Event::Ledger));
    }
    out.event(Event::Registered(command.clone()));
    Ok(())
}

fn deposit(
    cloud: &Cloud,
    person: &Principal,
    amount: Money,
    reference: &str,
    now: Timestamp,
    out: &mut Decision,
) -> AdminReply {
    let tenant = cloud.registry.tenant(&person.tenant);
    let Some(tenant) = tenant.filter(|tenant| tenant.bank == BankKind::Internal) else {
        return Err(Rejection::new(
            "no_internal_account",
            "only persons of a tenant with an internal bank have accounts here",
        ));
    };
    if cloud.registry.person(person).is_none() {
        return Err(Rejection::new(
            "person_unknown",
            format!("no person `{person}`: create it with `admin people create`"),
        ));
    }
    check_booking(tenant, amount, reference)?;
    let transfer = books::deposit(person, amount.minor, amount.currency, reference);
    let decided = cloud.ledger.decide_transfers(&[transfer], now.0);
    out.events.extend(decided.events.into_iter().map(Event::Ledger));
    out.shown.push(person.clone());
    match decided.result {
        Ok(_) => Ok(AdminAnswer::Done),
        Err(why) => {
            Err(Rejection::new("deposit_refused", format!("the books refuse the deposit: {}", why.reason)))
        }
    }
}

/// What every booking by hand must have.
pub(crate) fn check_booking(tenant: &Tenant, amount: Money, reference: &str) -> Result<(), Rejection> {
    if amount.currency != tenant.currency {
        return Err(Rejection::new(
            "currency_mismatch",
            format!("this tenant's currency is {}", tenant.currency),
        ));
    }
    if reference.is_empty() || reference.len() > limits::AUDIT_TEXT_BYTES {
        return Err(Rejection::new(
            "reference_invalid",
            "give a reference of 1 to 200 bytes: the same one is booked once",
        ));
    }
    Ok(())
}

/// correctness.md 20: ends the standing, withdraws the outbox, settles open commands as unknown.
fn revoke(cloud: &Cloud, device: &Principal, now: Timestamp, out: &mut Decision) -> AdminReply {
    if cloud.registry.require_device(device)?.standing == Standing::Revoked {
        return Ok(AdminAnswer::Done);
    }
    out.event(Event::DeviceRevoked { device: device.clone() });
    for owed in cloud.outbox.messages(device) {
        out.withdraw(device, owed.message, "revoked");
    }
    settle_as_unknown(cloud, device, now, out);
    Ok(AdminAnswer::Done)
}

/// What a device that is gone or replaced was doing: nobody knows. Open questions to a chip or a piggy bank end as
/// refused.
fn settle_as_unknown(cloud: &Cloud, device: &Principal, now: Timestamp, out: &mut Decision) {
    ChildFlow { cloud, now, out: &mut *out }.device_gone(device);
    let code = || Some(Code::known("device_revoked"));
    for payment in cloud.open_payments_of(device) {
        let mut flow = ChipFlow { cloud, now, out };
        match payment.phase {
            Phase::Commanded | Phase::Asked { .. } if payment.executor.as_ref() == Some(device) => {
                flow.outcome_known(payment, Outcome::Unknown, 0, code());
            }
            Phase::Checking { .. } if payment.chip == *device => {
                flow.refuse(payment, Code::known("chip_revoked"))
            }
            _ => {}
        }
    }
}

/// An enrolment: sign, or the same certificate again, or not.
pub(crate) enum Enrolment {
    Sign(SignOrder),
    Known(Vec<u8>),
}

/// correctness.md 20: same proof and same key = the same certificate again; another key is refused.
pub(crate) fn enrol(
    cloud: &Cloud,
    principal: &Principal,
    proof: &Proof,
    key: PublicKey,
    life_ms: u64,
    now: Timestamp,
) -> Result<Enrolment, Rejection> {
    let sign = |instance| {
        Enrolment::Sign(SignOrder {
            principal: principal.clone(),
            instance,
            public_key: key,
            proof: proof.clone(),
            not_before: Timestamp(now.0.saturating_sub(limits::CERTIFICATE_EARLIER_MS.min(life_ms / 10))),
            not_after: now.plus_ms(life_ms),
        })
    };
    match proof {
        Proof::Claim(claim) => match claimed(cloud, principal, *claim, key, now)? {
            Some(certificate) => Ok(Enrolment::Known(certificate)),
            None => {
                let current = cloud.registry.device(principal).map_or(Instance(0), |device| device.instance);
                Ok(sign(cloud.instance_after(current)))
            }
        },
        Proof::Certificate { instance, serial } => {
            match renewed(cloud, principal, *instance, serial, key, now)? {
                Some(certificate) => Ok(Enrolment::Known(certificate)),
                None => Ok(sign(*instance)),
            }
        }
    }
}

/// The certificate that this claim gave before; `None` where it is still to be used.
fn claimed(
    cloud: &Cloud,
    principal: &Principal,
    claim: Hash,
    key: PublicKey,
    now: Timestamp,
) -> Result<Option<Vec<u8>>, Rejection> {
    let refused = || {
        let text = "this claim code is not good for this device: it has ended, was used, or was made for another one; ask the operator for a new one";
        Rejection::new("claim_refused", text)
    };
    let device = cloud.registry.device(principal).ok_or_else(refused)?;
    if let Some((used, certificate)) = &device.enrolment
        && *used == claim
    {
        let same = device.public_key == Some(key) && device.standing == Standing::Enrolled;
        let other = || {
            Rejection::new(
                "claim_used",
                "this claim code was used with another key: ask the operator for a new one",
            )
        };
        return if same { Ok(Some(certificate.to_vec())) } else { Err(other()) };
    }
    if cloud.registry.claim_is_good(claim, principal, now) { Ok(None) } else { Err(refused()) }
}

/// What this certificate was renewed to before; `None` where it is still to be renewed. The key stays: the registry
/// knows it as the signer of the device's payment informations, and a new one would have to be accepted beside it
/// until every information of the old one has ended. Who wants a new key enrols anew.
fn renewed(
    cloud: &Cloud,
    principal: &Principal,
    instance: Instance,
    serial: &[u8],
    key: PublicKey,
    now: Timestamp,
) -> Result<Option<Vec<u8>>, Rejection> {
    let device = cloud.registry.device(principal).filter(|device| device.instance == instance);
    let device = device.filter(|device| device.standing == Standing::Enrolled).ok_or_else(|| {
        let text = "the device was revoked, or enrolled anew, since this certificate was made: ask the operator for a new claim code";
        Rejection::new("certificate_not_current", text)
    })?;
    if device.public_key != Some(key) {
        let text = "a renewal keeps the key: send the request for the enrolled one, or enrol anew with a new claim code";
        return Err(Rejection::new("renewal_other_key", text));
    }
    let known = device.renewal.as_ref().filter(|known| known.of_serial == serial && now < known.not_after);
    Ok(known.map(|known| known.certificate.to_vec()))
}

/// The certificate is there. A re-enrolment is a new instance: what the old one was doing is unknown. A renewal
/// changes nothing but the certificate.
pub(crate) fn enrolled(
    cloud: &Cloud,
    order: &SignOrder,
    certificate: Vec<u8>,
    now: Timestamp,
    out: &mut Decision,
) -> Result<Vec<u8>, Rejection> {
    // Two enrolments may have raced: the proof decides again.
    match enrol(cloud, &order.principal, &order.proof, order.public_key, 0, now)? {
        Enrolment::Known(certificate) => Ok(certificate),
        Enrolment::Sign(again) => {
            if again.instance != order.instance {
                return Err(Rejection::new(
                    "enrolment_raced",
                    "another enrolment of this device came in between: try again",
                ));
            }
            match &order.proof {
                Proof::Claim(claim_hash) => {
                    settle_as_unknown(cloud, &order.principal, now, out);
                    out.event(Event::DeviceEnrolled {
                        principal: order.principal.clone(),
                        instance: order.instance,
                        public_key: order.public_key,
                        claim_hash: *claim_hash,
                        certificate: certificate.clone(),
                    });
                }
                Proof::Certificate { serial, .. } => out.event(Event::CertificateRenewed {
                    principal: order.principal.clone(),
                    of_serial: serial.clone(),
                    not_after: order.not_after,
                    certificate: certificate.clone(),
                }),
            }
            Ok(certificate)
        }
    }
}
