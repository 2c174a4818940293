//! Who lives in a world: tenants with their banks and policies, people, chips and executors, drawn from the seed.

use std::collections::BTreeMap;

use broker_session::{Limits, Version};
use cloud_core_flows::admin::{AdminCommand, BankKind, Deadlines, OnUnknown};
use cloud_core_flows::places::CodeRules;
use ed25519_dalek::SigningKey;
use schemas::ids::{Hash, MerchantId, Principal, TenantId};
use schemas::money::{Currency, Money};
use schemas::signed::PublicKey;
use schemas::time::Timestamp;

use super::client::Habits;
use super::family::FamilyPlan;
use super::fault::Fault;
use super::random::{Random, Streams};
use super::{EPOCH_MS, Violation};

/// The longest act of the shipped executor profile, in milliseconds.
pub(super) const LONGEST_ACT_MS: u64 = 30_000;

pub(super) struct TenantPlan {
    pub(super) id: TenantId,
    pub(super) bank: BankKind,
    pub(super) on_unknown: OnUnknown,
    pub(super) deadlines: Deadlines,
    pub(super) code_rules: CodeRules,
}

/// What a person does in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PersonKind {
    /// Buys at chips.
    Payer,
    /// Speaks for the merchant.
    Till,
    /// Orders for children.
    Guardian,
    /// Hands in codes at another place than the till.
    Scanner,
}

pub(super) struct PersonPlan {
    pub(super) principal: Principal,
    pub(super) tenant: usize,
    pub(super) key: SigningKey,
    pub(super) kind: PersonKind,
    pub(super) is_till: bool,
    pub(super) wealth: Money,
    /// How far the terminal's clock is ahead.
    pub(super) ahead_ms: i64,
    pub(super) habits: Habits,
}

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MachineKind {
    /// A chip, with the index of its executor.
    Chip(Option<usize>),
    Executor,
    PiggyBank,
}

impl PersonPlan {
    /// Whether this person signs for what they pay (CP-5).
    pub(super) fn signs(&self) -> bool {
        self.kind == PersonKind::Payer
    }
}

pub(super) struct MachinePlan {
    pub(super) principal: Principal,
    pub(super) tenant: usize,
    pub(super) key: SigningKey,
    pub(super) kind: MachineKind,
    pub(super) is_chip: bool,
    /// For a chip: the index of its executor.
    pub(super) executor: Option<usize>,
    pub(super) drift_ppm: i64,
    /// Its journal has small segments.
    pub(super) small_disk: bool,
    pub(super) habits: Habits,
}

pub(super) struct Plan {
    pub(super) currency: Currency,
    pub(super) merchant: MerchantId,
    pub(super) tenants: Vec<TenantPlan>,
    pub(super) people: Vec<PersonPlan>,
    pub(super) machines: Vec<MachinePlan>,
    pub(super) family: Option<FamilyPlan>,
    /// The world's clock begins here, in milliseconds since 1970.
    pub(super) epoch_ms: u64,
    pub(super) purchases: u64,
    pub(super) faults_end_ms: u64,
    /// Of every connection.
    pub(super) lane: Limits,
}

pub(super) fn name<T: std::str::FromStr>(text: &str) -> Result<T, Violation>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| Violation::harness(format!("{text}: {error}")))
}

impl Plan {
    pub(super) fn draw(random: &mut Streams, mix: &super::fault::Mix) -> Result<Self, Violation> {
        let currency: Currency = name("EUR")?;
        let mut plan = Self {
            currency,
            merchant: name("snacks")?,
            tenants: Vec::new(),
            people: Vec::new(),
            machines: Vec::new(),
            family: None,
            epoch_ms: EPOCH_MS,
            // A calm machine is never asked for more than its queue holds.
            purchases: if mix.is_calm() { random.plan.range(2, 4) } else { random.plan.range(3, 14) },
            faults_end_ms: random.plan.range(60_000, 600_000),
            lane: draw_limits(&mut random.plan, mix.is_calm()),
        };
        let first = random.plan.index(3);
        let count = if random.plan.chance(300) { 2 } else { 1 };
        for number in 0..count {
            let (id, on_unknown, http) = [
                ("north", OnUnknown::Refund, true),
                ("south", OnUnknown::Hold, true),
                ("house", if random.plan.chance(500) { OnUnknown::Refund } else { OnUnknown::Hold }, false),
            ][(first + number) % 3];
            plan.add_tenant(random, mix, id, on_unknown, http)?;
        }
        // After everybody else, who so stay as they are.
        plan.draw_family(random, mix)?;
        Ok(plan)
    }

    fn add_tenant(
        &mut self,
        random: &mut Streams,
        mix: &super::fault::Mix,
        id: &str,
        on_unknown: OnUnknown,
        http: bool,
    ) -> Result<(), Violation> {
        let tenant = self.tenants.len();
        let bank = if http {
            BankKind::Http { url: format!("http://bank/{id}"), holding: format!("{id}/holding") }
        } else {
            BankKind::Internal
        };
        let deadlines = draw_deadlines(&mut random.plan, mix.is_calm());
        let code_rules = CodeRules::default();
        self.tenants.push(TenantPlan { id: name(id)?, bank, on_unknown, deadlines, code_rules });
        let kinds = [("ann", PersonKind::Payer), ("bob", PersonKind::Payer), ("till", PersonKind::Till)];
        for (person, kind) in kinds {
            let poor = random.of(Fault::Poor).chance(mix.permille(Fault::Poor));
            let ordinary = random.plan.range(50_000, 200_000);
            let minor = if poor { random.of(Fault::Poor).range(0, 500) } else { ordinary };
            let clock = random.of(Fault::TerminalClock);
            let is_wrong = clock.chance(mix.permille(Fault::TerminalClock));
            let ahead_ms = if is_wrong { clock.step_ms() } else { 0 };
            let wealth = self.currency.minor(minor);
            self.add_person(&mut random.plan, &format!("{id}/{person}"), tenant, kind, wealth)?;
            self.people.iter_mut().last().into_iter().for_each(|person| person.ahead_ms = ahead_ms);
        }
        for number in 0..random.plan.range(1, 2) {
            let executor = random.plan.chance(750).then_some(self.machines.len());
            if executor.is_some() {
                let vend = format!("{id}/vend-{number}");
                self.add_machine(random, mix, &vend, tenant, MachineKind::Executor)?;
            }
            self.add_machine(
                random,
                mix,
                &format!("{id}/chip-{number}"),
                tenant,
                MachineKind::Chip(executor),
            )?;
        }
        Ok(())
    }

    pub(super) fn add_person(
        &mut self,
        random: &mut Random,
        principal: &str,
        tenant: usize,
        kind: PersonKind,
        wealth: Money,
    ) -> Result<(), Violation> {
        let principal: Principal = name(principal)?;
        self.people.push(PersonPlan {
            ahead_ms: 0,
            habits: draw_habits(random, &principal),
            principal,
            tenant,
            key: SigningKey::from_bytes(&random.bytes()),
            kind,
            is_till: kind == PersonKind::Till,
            wealth,
        });
        Ok(())
    }

    pub(super) fn add_machine(
        &mut self,
        random: &mut Streams,
        mix: &super::fault::Mix,
        principal: &str,
        tenant: usize,
        kind: MachineKind,
    ) -> Result<(), Violation> {
        let drift = random.of(Fault::ClockDrift);
        let drifts = drift.chance(mix.permille(Fault::ClockDrift));
        let drift_ppm = if drifts { if drift.chance(500) { 190 } else { -190 } } else { 0 };
        self.machines.push(MachinePlan {
            principal: name(principal)?,
            tenant,
            key: SigningKey::from_bytes(&random.plan.bytes()),
            kind,
            is_chip: matches!(kind, MachineKind::Chip(_)),
            executor: if let MachineKind::Chip(executor) = kind { executor } else { None },
            drift_ppm,
            small_disk: mix.has(Fault::DeviceDiskFull),
            habits: Habits {
                version: Version::V5,
                client_id: "agent".to_owned(),
                login: None,
                keep_alive_s: 30,
                receive_maximum: 16,
                will: Some(b"gone".to_vec()),
            },
        });
        Ok(())
    }

    /// How many people or machines were drawn with this fault.
    pub(super) fn drawn(&self, fault: Fault) -> usize {
        match fault {
            Fault::Poor => self.people.iter().filter(|person| person.wealth.minor <= 500).count(),
            Fault::ClockDrift => self.machines.iter().filter(|machine| machine.drift_ppm != 0).count(),
            Fault::TerminalClock => self.people.iter().filter(|person| person.ahead_ms != 0).count(),
            _ => 0,
        }
    }

    pub(super) fn title(&self, tenant: usize) -> String {
        format!("Snacks of {}", self.tenants[tenant].id)
    }

    pub(super) fn is_http(&self, tenant: usize) -> bool {
        matches!(self.tenants[tenant].bank, BankKind::Http { .. })
    }

    /// What the operator says before the world begins; devices are enrolled besides.
    pub(super) fn commands(&self) -> Result<Vec<AdminCommand>, Violation> {
        let mut commands = Vec::new();
        for (index, tenant) in self.tenants.iter().enumerate() {
            commands.push(AdminCommand::CreateTenant {
                tenant: tenant.id.clone(),
                currency: self.currency,
                bank: tenant.bank.clone(),
                on_unknown: tenant.on_unknown,
                deadlines: tenant.deadlines,
                code_rules: tenant.code_rules,
            });
            commands.push(AdminCommand::CreateMerchant {
                tenant: tenant.id.clone(),
                merchant: self.merchant.clone(),
                title: self.title(index),
                terminal: Some(name("till")?),
            });
        }
        for person in &self.people {
            let http = self.is_http(person.tenant);
            commands.push(AdminCommand::CreatePerson {
                person: person.principal.clone(),
                public_key: person.signs().then(|| PublicKey::of(&person.key)),
                bank_account: http.then(|| person.principal.to_string()),
            });
            commands.push(AdminCommand::CreateToken {
                principal: person.principal.clone(),
                token_hash: Hash::of(person.principal.to_string().as_bytes()),
                expires_at: Timestamp::NEVER,
            });
            if !http && !person.is_till && person.wealth.minor > 0 {
                commands.push(AdminCommand::Deposit {
                    person: person.principal.clone(),
                    amount: person.wealth,
                    reference: "first".to_owned(),
                });
            }
        }
        for machine in &self.machines {
            let (profile, longest_act_ms) = match machine.kind {
                MachineKind::Chip(_) => ("payment-chip", 0),
                MachineKind::Executor => ("vending-executor", LONGEST_ACT_MS),
                MachineKind::PiggyBank => ("piggy-bank", 0),
            };
            commands.push(AdminCommand::CreateDevice {
                device: machine.principal.clone(),
                profile: profile.to_owned(),
                longest_act_ms,
            });
        }
        for machine in self.machines.iter().filter(|machine| machine.is_chip) {
            commands.push(AdminCommand::BindChip {
                chip: machine.principal.clone(),
                merchant: self.merchant.clone(),
                executor: machine.executor.map(|index| self.machines[index].principal.id.clone()),
                items: BTreeMap::new(),
            });
        }
        commands.extend(self.family_commands());
        Ok(commands)
    }
}

/// Terminals are ordinary clients of both versions (correctness.md 11).
fn draw_habits(random: &mut Random, principal: &Principal) -> Habits {
    let name = principal.to_string();
    Habits {
        version: if random.chance(500) { Version::V5 } else { Version::V3_1_1 },
        client_id: "phone".to_owned(),
        login: Some((name.clone(), name.into_bytes())),
        keep_alive_s: [0, 20, 60][random.index(3)],
        receive_maximum: [1, 2, 20, 65_535][random.index(4)],
        will: None,
    }
}

/// In half of the worlds the lane's windows are small, so that they fill.
fn draw_limits(random: &mut Random, calm: bool) -> Limits {
    if calm || random.chance(500) {
        return Limits::default();
    }
    let maximum = |random: &mut Random| u16::try_from(random.range(1, 8)).unwrap_or(1);
    Limits {
        receive_maximum: maximum(random),
        max_in_flight: maximum(random),
        max_transmit_bytes: if random.chance(500) { 2 << 10 } else { 64 << 10 },
        max_skipped: 2,
        ack_timeout_ms: random.range(5_000, 30_000),
        write_timeout_ms: random.range(5_000, 30_000),
        connect_timeout_ms: random.range(2_000, 10_000),
        ..Limits::default()
    }
}

/// In a calm world deadlines are those that a tenant has by default; else also tight ones.
fn draw_deadlines(random: &mut Random, calm: bool) -> Deadlines {
    if calm || random.chance(200) {
        return Deadlines::default();
    }
    Deadlines {
        health_check_ms: random.range(2_000, 12_000),
        verification_ms: random.range(5_000, 90_000),
        bank_ms: random.range(4_000, 60_000),
        presence_ms: random.range(30_000, 300_000),
        start_ms: random.range(3_000, 20_000),
        report_ms: random.range(2_000, 15_000),
        command_status_ms: random.range(2_000, 10_000),
        reconnect_ms: random.range(5_000, 30_000),
        bank_retry_ms: random.range(200, 1_500),
        ..Deadlines::default()
    }
}
