//! What a piggy bank remembers of codes, and of the places where they count.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use schemas::ids::{Instance, PaymentId};
use schemas::message::{PaymentCode, PaymentState};
use schemas::signed::{Catalogue, PublicKey};
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::is_decided;

/// Why a code is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeEnd {
    /// Its time was over, or it came too late to be shown.
    Expired,
    /// The cloud told what became of the payment.
    Decided,
}

/// Where one code stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeRecord {
    /// The child may pay with it.
    Open(PaymentCode),
    /// Never shown again. The code itself is gone.
    Ended {
        /// Why.
        why: CodeEnd,
        /// When it would have ended.
        expires_at: Timestamp,
    },
}

impl CodeRecord {
    pub(crate) fn expires_at(&self) -> Timestamp {
        match self {
            CodeRecord::Open(code) => code.expires_at,
            CodeRecord::Ended { expires_at, .. } => *expires_at,
        }
    }
}

/// Codes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Codes {
    pub(crate) records: BTreeMap<PaymentId, CodeRecord>,
    /// In order of arrival.
    pub(crate) open: VecDeque<PaymentId>,
    /// In order of their end.
    pub(crate) ended: VecDeque<PaymentId>,
    /// Of those that are open: which enrolment took them in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    instances: BTreeMap<PaymentId, Instance>,
}

impl Codes {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Those that the child may pay with, in order of arrival.
    pub(crate) fn open(&self) -> impl Iterator<Item = &PaymentCode> {
        self.open.iter().filter_map(|payment| match self.records.get(payment) {
            Some(CodeRecord::Open(code)) => Some(code),
            _ => None,
        })
    }

    /// Another enrolment took it in. The cloud ended it with that enrolment, and tells nobody any more.
    pub(crate) fn is_of_another(&self, payment: &PaymentId, instance: Instance) -> bool {
        self.instances.get(payment).is_some_and(|of| *of != instance)
    }

    pub(super) fn accept(&mut self, code: &PaymentCode, instance: Option<Instance>) {
        if let Entry::Vacant(vacant) = self.records.entry(code.payment) {
            vacant.insert(CodeRecord::Open(code.clone()));
            self.open.push_back(code.payment);
            self.instances.extend(instance.map(|instance| (code.payment, instance)));
        }
    }

    pub(super) fn end(&mut self, payment: PaymentId, why: CodeEnd) {
        let Some(record) = self.records.get_mut(&payment) else { return };
        let CodeRecord::Open(code) = record else { return };
        *record = CodeRecord::Ended { why, expires_at: code.expires_at };
        self.open.retain(|open| *open != payment);
        self.instances.remove(&payment);
        self.ended.push_back(payment);
    }

    pub(super) fn forget(&mut self, payments: &[PaymentId]) {
        for payment in payments {
            self.records.remove(payment);
        }
        self.ended.retain(|ended| !payments.contains(ended));
    }
}

/// The places, and whose word on them counts: one enrolment's, so that another one begins anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownPlaces {
    pinned: Option<(Instance, PublicKey)>,
    catalogue: Option<Catalogue>,
}

impl KnownPlaces {
    pub(crate) fn is_empty(&self) -> bool {
        self.pinned.is_none()
    }

    /// The one signer of this enrolment, if it is known.
    pub(crate) fn signer(&self, instance: Instance) -> Option<PublicKey> {
        self.pinned.filter(|(of, _)| *of == instance).map(|(_, signer)| signer)
    }

    /// What this enrolment has heard of places.
    pub(crate) fn of(&self, instance: Instance) -> Option<&Catalogue> {
        self.catalogue.as_ref().filter(|_| self.signer(instance).is_some())
    }

    pub(super) fn pin(&mut self, instance: Instance, signer: PublicKey) {
        *self = Self { pinned: Some((instance, signer)), catalogue: None };
    }

    pub(super) fn receive(&mut self, instance: Instance, catalogue: &Catalogue) {
        if self.signer(instance).is_some() {
            self.catalogue = Some(catalogue.clone());
        }
    }
}

/// Nothing can be paid with its code any more.
pub(crate) fn is_final(state: PaymentState) -> bool {
    is_decided(state) && state != PaymentState::Presenting
}
