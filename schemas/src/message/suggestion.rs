//! A person pays, and is asked whether to pay through a child where its own account has too little (PC-11).

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Value, json};

use super::child::{Categories, ChildMessageError, Payee, short_list, value_on_the_wire};
use crate::ids::{PaymentId, PrincipalId};
use crate::limits;
use crate::money::Money;
use crate::time::Timestamp;
use crate::wire::{Text, WireType, wire};

wire! {
    /// A person pays from its own account in our ledger. Answered with the payment, or with why not.
    pub struct OwnPayment {
        /// How much.
        pub amount: Money,
        /// Who gets it: a person or a merchant.
        pub payee: Payee,
        /// What it is for.
        pub categories: Categories,
        /// For a child to read, if it is asked.
        pub note: Option<Text>,
    }
}
wire! {
    /// Cloud to person: your account has too little for this; shall one of these children pay? (PC-11)
    pub struct PaySuggestion {
        /// The payment that the person has ordered.
        pub payment: PaymentId,
        /// How much.
        pub amount: Money,
        /// Who would get it.
        pub payee: Payee,
        /// Who could pay: guarded by this person, with enough on the account, within its limits.
        pub children: Names,
        /// An answer later than this no longer counts.
        pub answer_by: Timestamp,
    }
}
wire! {
    /// Person to cloud: through this child, or not at all. Answered with the child's payment, which then asks the child.
    pub struct SuggestionAnswer {
        /// The payment that the person has ordered.
        pub payment: PaymentId,
        /// Who shall pay; left out: nobody.
        pub child: Option<PrincipalId>,
    }
}

short_list! {
    #[doc = "Names of people, at most [`limits::SUGGESTED_CHILDREN`]."]
    Names of PrincipalId, at most limits::SUGGESTED_CHILDREN;
}
value_on_the_wire! {
    Names => "[*8 name]", { "type": "array", "maxItems": 8, "items": { "type": "string" } };
}
