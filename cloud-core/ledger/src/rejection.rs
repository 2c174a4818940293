//! Every reason for which the ledger says no.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::TransferId;

/// A chain of transfers was refused; nothing of it happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
#[error("transfer {index} of the chain refused ({code}): {reason}", code = reason.code())]
#[serde(deny_unknown_fields)]
pub struct Rejection {
    /// Position in the chain, from zero, of the transfer that was refused.
    pub index: u32,
    /// Why.
    pub reason: Reason,
}

/// Declares the reasons once: the variant, its stable code and its text.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $code:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Error, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_meta])* #[doc = $text] #[serde(rename = $code)] #[error($text)] $variant,)*
        }

        impl $name {
            /// Every reason, in ladder order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Stable name for journals, wires and metrics; never changes and is never reused.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
        }
    };
}

reasons! {
    /// Why a transfer was refused. **The order of the variants is the order of the checks.**
    ///
    /// The ladder has four flights. Each runs over the whole chain before the next begins, and the first failing
    /// check of the first failing transfer is the answer:
    ///
    /// 1. the request by itself (up to `PendingMustDiffer`);
    /// 2. the id against what is remembered (up to `ExistsOutsideChain`). The same id with the same content ends
    ///    here: it [`Exists`](crate::Answer::Exists), or its earlier refusal is given again with its reason;
    /// 3. room (`LedgerFull`);
    /// 4. the state, transfer by transfer, each seeing those before it. Only these refusals are remembered
    ///    ([`Reason::is_remembered`]): the others recur by themselves.
    Reason {
        ChainEmpty = "chain_empty", "the chain holds no transfer; send at least one";
        ChainTooLong = "chain_too_long", "the chain holds more transfers than the limit; split it";
        IdMustNotBeZero = "id_must_not_be_zero", "the transfer's id is zero; choose a random one";
        IdRepeatedInChain = "id_repeated_in_chain", "an earlier transfer of the chain has the same id; give each its own";
        AccountsMustDiffer = "accounts_must_differ", "debit and credit are the same account; name two";
        AmountMustNotBeZero = "amount_must_not_be_zero", "the amount is zero; to release a reservation, void it";
        TimeoutMustNotBeZero = "timeout_must_not_be_zero", "the timeout is zero; give a time or none";
        PendingMustDiffer = "pending_must_differ", "the transfer names itself as the reservation; name an earlier one";

        ExistsWithDifferentKind = "exists_with_different_kind", "the id belongs to a transfer of another kind; use a new id for a new transfer";
        ExistsWithDifferentPending = "exists_with_different_pending", "the id belongs to a transfer that resolves another reservation; use a new id for a new transfer";
        ExistsWithDifferentDebit = "exists_with_different_debit", "the id belongs to a transfer that debits another account; use a new id for a new transfer";
        ExistsWithDifferentCredit = "exists_with_different_credit", "the id belongs to a transfer that credits another account; use a new id for a new transfer";
        ExistsWithDifferentAmount = "exists_with_different_amount", "the id belongs to a transfer of another amount; use a new id for a new transfer";
        ExistsWithDifferentCurrency = "exists_with_different_currency", "the id belongs to a transfer in another currency; use a new id for a new transfer";
        ExistsWithDifferentBalancing = "exists_with_different_balancing", "the id belongs to a transfer with other balancing; use a new id for a new transfer";
        ExistsWithDifferentTimeout = "exists_with_different_timeout", "the id belongs to a reservation with another timeout; use a new id for a new transfer";
        ExistsWithDifferentCode = "exists_with_different_code", "the id belongs to a transfer with another code; use a new id for a new transfer";
        ExistsWithDifferentUserData = "exists_with_different_user_data", "the id belongs to a transfer with other user data; use a new id for a new transfer";
        IdAlreadyFailed = "id_already_failed", "the id belongs to a transfer of other content that was refused; use a new id for a new transfer";
        LinkedTransferFailed = "linked_transfer_failed", "the id was refused together with the chain it came in; use new ids for a new attempt";
        ExistsOutsideChain = "exists_outside_chain", "the transfer exists but others of the chain do not; retry a chain as it was sent";

        LedgerFull = "ledger_full", "the ledger holds as many transfers as it may; retire closed ones and retry";

        PendingNotFound = "pending_not_found", "the reservation is not known; it never was or was retired";
        PendingNotReservation = "pending_not_reservation", "the transfer named as reservation is none; name a reservation";
        PendingAlreadyPosted = "pending_already_posted", "the reservation was posted; to move money back, make a new transfer";
        PendingAlreadyVoided = "pending_already_voided", "the reservation was voided; make a new one";
        PendingExpired = "pending_expired", "the reservation has expired; make a new one";
        ExceedsPendingAmount = "exceeds_pending_amount", "the amount is more than was reserved; post the reserved amount at most";
        DebitAccountNotFound = "debit_account_not_found", "the account to debit is not known; open it first";
        CreditAccountNotFound = "credit_account_not_found", "the account to credit is not known; open it first";
        DebitAccountClosed = "debit_account_closed", "the account to debit is closed; use another";
        CreditAccountClosed = "credit_account_closed", "the account to credit is closed; use another";
        DebitCurrencyMismatch = "debit_currency_mismatch", "the account to debit is kept in another currency; use one in the transfer's currency";
        CreditCurrencyMismatch = "credit_currency_mismatch", "the account to credit is kept in another currency; use one in the transfer's currency";
        NothingAvailable = "nothing_available", "a balancing transfer found nothing available; fund the account";
        OverflowsDebits = "overflows_debits", "the debited account's total would not fit 64 bits; use another account";
        OverflowsCredits = "overflows_credits", "the credited account's total would not fit 64 bits; use another account";
        OverflowsTimeout = "overflows_timeout", "the expiry time would not fit 64 bits; give a shorter timeout or none";
        ExceedsCredits = "exceeds_credits", "the debited account does not have the money; fund it and use a new id";
        ExceedsDebits = "exceeds_debits", "the credited account cannot take the money; its credits may not exceed its debits";
    }
}

impl Reason {
    /// Whether the refusal depends on the state it met and is therefore remembered with the id: a state that
    /// changes must not turn a retry into a transfer.
    pub fn is_remembered(self) -> bool {
        self == Self::LinkedTransferFailed || self > Self::LedgerFull
    }
}

reasons! {
    /// Why an account was not opened or closed. The order of the variants is the order of the checks.
    AccountRejection {
        IdMustNotBeZero = "id_must_not_be_zero", "the account's id is zero; choose another";
        CurrencyOutOfRange = "currency_out_of_range", "the currency is not an ISO 4217 numeric code (1 to 999); correct it";
        ExistsWithDifferentCurrency = "exists_with_different_currency", "the account exists in another currency; use a new id";
        ExistsWithDifferentCode = "exists_with_different_code", "the account exists with another code; use a new id";
        ExistsWithDifferentLimit = "exists_with_different_limit", "the account exists with another limit; use a new id";
        LedgerFull = "ledger_full", "the ledger holds as many accounts as it may; use another shard";
        NotFound = "account_not_found", "the account is not known; check the id";
        HasPending = "account_has_pending", "open reservations touch the account; post or void them first";
        HasBalance = "account_has_balance", "debits and credits differ; move the balance first";
    }
}

/// Why transfers were not retired; none of them was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RetireRejection {
    /// More ids than fit one event.
    #[error("{count} transfers to retire, at most {limit} at once; split the list")]
    TooMany {
        /// How many were named.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// An open reservation cannot be forgotten.
    #[error("transfer {id} is an open reservation; post or void it, or wait for its expiry, then retire it")]
    Pending {
        /// The reservation.
        id: TransferId,
    },
}

impl RetireRejection {
    /// Stable name for journals, wires and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::TooMany { .. } => "retire_too_many",
            Self::Pending { .. } => "retire_pending",
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_distinct_snake_case_and_what_is_serialised() {
        let codes: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.code().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            let bytes = serde_cbor::to_vec(reason).unwrap();
            assert_eq!(serde_cbor::from_slice::<&str>(&bytes).unwrap(), reason.code());
        }
    }

    #[test]
    fn only_refusals_that_met_state_are_remembered() {
        let remembered = Reason::ALL.iter().filter(|reason| reason.is_remembered()).count();
        assert_eq!(remembered, 19);
        assert!(!Reason::LedgerFull.is_remembered());
        assert!(Reason::PendingNotFound.is_remembered());
    }
}
