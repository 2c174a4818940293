//! Children and their payments on the command line (PC-1, PC-2).

use clap::Subcommand;
use cloud_core_flows::admin::{AdminCommand, Listing};
use cloud_core_flows::children::Bonds;
use schemas::ids::{Principal, PrincipalId};
use schemas::message::Payee;

use super::registered::{Wanted, one};

#[derive(Debug, Subcommand)]
pub(super) enum Children {
    /// All children, with their bonds, their limits and what they have.
    List(Wanted),
    /// One child.
    Show {
        /// TENANT/NAME
        child: Principal,
    },
    /// Make a person a child of guardians, or change that. What was ordered under bonds that no longer hold ends.
    Bind {
        /// The child, a registered person: TENANT/NAME
        child: Principal,
        /// Who may order payments and set limits; may be repeated.
        #[arg(long = "guardian", value_name = "NAME", required = true)]
        guardians: Vec<PrincipalId>,
        /// The device that the child uses.
        #[arg(long, value_name = "NAME")]
        piggy_bank: Option<PrincipalId>,
        /// Who gets the money where an order names nobody: person/NAME or merchant/NAME. Else the guardian.
        #[arg(long, value_name = "PAYEE")]
        receiving: Option<Payee>,
        /// Where the child's days begin and end, for its limits: Europe/Berlin, Asia/Shanghai, ...
        #[arg(long, value_name = "ZONE")]
        time_zone: String,
    },
    /// Nobody may order from this account any more.
    Unbind {
        /// TENANT/NAME
        child: Principal,
    },
    /// Payments from children's accounts in memory, newest first. `admin payments show` tells the story of one.
    Payments {
        #[command(flatten)]
        wanted: Wanted,
        /// Only those in this state, for instance `settled`.
        #[arg(long)]
        state: Option<String>,
    },
}

impl Children {
    pub(super) fn command(self) -> AdminCommand {
        match self {
            Self::List(wanted) => wanted.of(Listing::Children, None),
            Self::Show { child } => one(Listing::Children, &child),
            Self::Bind { child, guardians, piggy_bank, receiving, time_zone } => {
                let guardians = guardians.into_iter().collect();
                let bonds = Bonds { guardians, piggy_bank, receiving, time_zone };
                AdminCommand::BindChild { child, bonds }
            }
            Self::Unbind { child } => AdminCommand::UnbindChild { child },
            Self::Payments { wanted, state } => wanted.of(Listing::ChildPayments, state),
        }
    }
}
