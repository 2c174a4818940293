//! Who is in a fleet: registered with the core, devices enrolled, everybody with the means to connect.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use broker_session::Version;
use cloud_core_flows::admin::{AdminCommand, BankKind, Deadlines, OnUnknown};
use cloud_core_flows::children::Bonds;
use cloud_core_flows::places::CodeRules;
use ed25519_dalek::SigningKey;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};
use schemas::claim::{ClaimCode, SECRET_BYTES};
use schemas::ids::{Hash, MerchantId, Principal, PrincipalId};
use schemas::money::{Currency, Money};
use schemas::signed::PublicKey;

use super::book::Sort;
use super::link::{Address, Transport};
use super::scenario::{self, MqttVersion, Scenario, TransportKind};
use super::terminal::now;
use crate::processes::{Core, Operator};

/// Its name; a core that serves others too keeps them apart.
pub(super) const TENANT: &str = "fleet";
/// What everybody who pays begins with, in minor units.
pub(super) const WEALTH_MINOR: u64 = 50_000_000;
/// Enrolments under way.
const AT_ONCE: usize = 4;
const BATCH: usize = 1_000;
/// How long closed payments stay in the core's memory, in milliseconds.
const RETENTION_MS: u64 = 60_000;
const TOKEN_LIFE_MS: u64 = 7 * 24 * 3_600_000;

/// Somebody who connects.
pub(super) struct Member {
    pub(super) principal: Principal,
    token: String,
    /// Of payers, for verifications, and of chips, for payment informations.
    pub(super) key: SigningKey,
    /// Of devices, for TLS.
    identity: Option<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>)>,
}

/// All of them, by role. Chip number n sells for merchant n modulo their number, and executor n delivers; guardian n
/// modulo their number has child n, who uses piggy bank n.
pub(super) struct Fleet {
    pub(super) members: Vec<Member>,
    pub(super) chips: Range<usize>,
    pub(super) executors: Range<usize>,
    pub(super) payers: Range<usize>,
    pub(super) terminals: Range<usize>,
    pub(super) piggy_banks: Range<usize>,
    pub(super) guardians: Range<usize>,
    pub(super) idle: Range<usize>,
    pub(super) currency: Currency,
    /// One at each piggy bank.
    pub(super) children: Vec<Principal>,
    /// One for each merchant's terminal.
    merchants: Vec<MerchantId>,
    authority: CertificateDer<'static>,
}

impl Fleet {
    /// Makes everybody known to the core.
    pub(super) fn register(core: &Core, directory: &Path, scenario: &Scenario) -> anyhow::Result<Self> {
        let authority = CertificateDer::from_pem_file(core.data.join("authority.pem"))
            .context("the core's authority (authority.pem in its data directory)")?;
        let mut fleet = Self::draw(scenario.fleet, authority)?;
        let mut operator = core.operator()?;
        operator.ask(&AdminCommand::CreateTenant {
            tenant: TENANT.parse()?,
            currency: fleet.currency,
            bank: BankKind::Internal,
            on_unknown: OnUnknown::Refund,
            deadlines: Deadlines { retention_ms: RETENTION_MS, ..Deadlines::default() },
            code_rules: CodeRules::default(),
        })?;
        let claims = fleet.claims()?;
        let commands = fleet.commands(&claims)?;
        for some in commands.chunks(BATCH) {
            operator.ask(&AdminCommand::Batch { commands: some.to_vec(), check_only: false })?;
        }
        fleet.deposit(&mut operator)?;
        fleet.enrol(core, directory, &claims)?;
        Ok(fleet)
    }

    fn draw(count: scenario::Fleet, authority: CertificateDer<'static>) -> anyhow::Result<Self> {
        let mut members = Vec::new();
        let mut add = |prefix: &str, count: u32| {
            let from = members.len();
            for number in 0..count {
                members.push(Member {
                    principal: format!("{TENANT}/{prefix}-{number}").parse()?,
                    token: data_encoding::HEXLOWER.encode(&random::<16>()?),
                    key: SigningKey::from_bytes(&random()?),
                    identity: None,
                });
            }
            anyhow::Ok(from..members.len())
        };
        let (chips, executors) = (add("chip", count.vending)?, add("executor", count.vending)?);
        let (payers, terminals) =
            (add("payer", count.payers)?, add("till", count.merchant_terminals.max(1))?);
        let (piggy_banks, guardians) = (add("piggy", count.piggy_banks)?, add("guardian", count.guardians)?);
        let idle = add("idle", count.idle)?;
        let currency = "EUR".parse()?;
        let children = (0..piggy_banks.len()).map(|number| Ok(format!("{TENANT}/child-{number}").parse()?));
        let children = children.collect::<anyhow::Result<_>>()?;
        let merchants = (0..terminals.len()).map(|number| Ok(format!("snacks-{number}").parse()?));
        let merchants = merchants.collect::<anyhow::Result<_>>()?;
        Ok(Self {
            members,
            chips,
            executors,
            payers,
            terminals,
            piggy_banks,
            guardians,
            idle,
            currency,
            children,
            merchants,
            authority,
        })
    }

    /// Everybody who is a device.
    fn devices(&self) -> impl Iterator<Item = usize> {
        self.chips.clone().chain(self.executors.clone()).chain(self.piggy_banks.clone())
    }

    /// One for each device.
    fn claims(&self) -> anyhow::Result<Vec<(usize, ClaimCode)>> {
        let fingerprint = Hash::of(&self.authority).0;
        let claim =
            |device| anyhow::Ok((device, ClaimCode::generate(random::<SECRET_BYTES>()?, &fingerprint)));
        self.devices().map(claim).collect()
    }

    fn commands(&self, claims: &[(usize, ClaimCode)]) -> anyhow::Result<Vec<AdminCommand>> {
        let mut commands = Vec::new();
        for member in self.persons() {
            let member = &self.members[member];
            let (person, public_key) = (member.principal.clone(), Some(PublicKey::of(&member.key)));
            commands.push(AdminCommand::CreatePerson { person, public_key, bank_account: None });
        }
        for number in 0..self.terminals.len() {
            commands.push(AdminCommand::CreateMerchant {
                tenant: TENANT.parse()?,
                merchant: self.merchant(number).clone(),
                title: format!("Snacks {number}"),
                terminal: Some(self.members[self.terminals.start + number].principal.id.clone()),
            });
        }
        for (range, profile) in [
            (&self.chips, "payment-chip"),
            (&self.executors, "vending-executor"),
            (&self.piggy_banks, "piggy-bank"),
        ] {
            commands.extend(self.members[range.clone()].iter().map(|member| AdminCommand::CreateDevice {
                device: member.principal.clone(),
                profile: profile.to_owned(),
                longest_act_ms: 1_000,
            }));
        }
        for number in 0..self.chips.len() {
            commands.push(AdminCommand::BindChip {
                chip: self.members[self.chips.start + number].principal.clone(),
                merchant: self.merchant(number).clone(),
                executor: Some(self.members[self.executors.start + number].principal.id.clone()),
                items: std::collections::BTreeMap::new(),
            });
        }
        for number in 0..self.piggy_banks.len() {
            let child = self.children[number].clone();
            let guardian = &self.members[self.guardian_of(number)].principal.id;
            commands.push(AdminCommand::CreatePerson {
                person: child.clone(),
                public_key: None,
                bank_account: None,
            });
            commands.push(AdminCommand::BindChild { child, bonds: self.bonds(number, guardian.clone()) });
        }
        let expires_at = now().plus_ms(TOKEN_LIFE_MS);
        for member in &self.members {
            let (principal, token_hash) = (member.principal.clone(), Hash::of(member.token.as_bytes()));
            commands.push(AdminCommand::CreateToken { principal, token_hash, expires_at });
        }
        for (device, claim) in claims {
            let (device, claim_hash) = (self.members[*device].principal.clone(), Hash(claim.secret_hash()));
            commands.push(AdminCommand::CreateClaim { device, claim_hash, expires_at });
        }
        Ok(commands)
    }

    /// Everybody who is a person and connects.
    fn persons(&self) -> impl Iterator<Item = usize> {
        let (payers, terminals) = (self.payers.clone(), self.terminals.clone());
        payers.chain(terminals).chain(self.guardians.clone()).chain(self.idle.clone())
    }

    fn bonds(&self, number: usize, guardian: PrincipalId) -> Bonds {
        Bonds {
            guardians: BTreeSet::from([guardian]),
            piggy_bank: Some(self.members[self.piggy_banks.start + number].principal.id.clone()),
            receiving: None,
            time_zone: "Europe/Berlin".to_owned(),
        }
    }

    /// Once; said again it changes nothing.
    fn deposit(&self, operator: &mut Operator) -> anyhow::Result<()> {
        let payers = self.members[self.payers.clone()].iter().map(|member| &member.principal);
        for person in payers.chain(&self.children).cloned() {
            let (amount, reference) = (self.money(WEALTH_MINOR), "fleet".to_owned());
            operator.ask(&AdminCommand::Deposit { person, amount, reference })?;
        }
        Ok(())
    }

    /// As a technician does, several at once.
    fn enrol(&mut self, core: &Core, directory: &Path, claims: &[(usize, ClaimCode)]) -> anyhow::Result<()> {
        for some in claims.chunks(AT_ONCE) {
            let mut agents = Vec::new();
            for (device, claim) in some {
                let name = &self.members[*device].principal;
                let data = directory.join("devices").join(name.id.as_str());
                std::fs::create_dir_all(&data)?;
                agents.push((*device, core.enrol(name, &claim.to_string(), &data)?, data.join("identity")));
            }
            for (device, mut agent, identity) in agents {
                let member = &mut self.members[device];
                let status = agent.0.wait()?;
                ensure!(status.success(), "edge-agent enroll of {} has failed: {status}", member.principal);
                let certificate = CertificateDer::from_pem_file(identity.join("device.crt"))?;
                let key = PrivatePkcs8KeyDer::from_pem_file(identity.join("device.key"))?;
                // RFC 8410: the seed is the end of it.
                let seed = key.secret_pkcs8_der().last_chunk().context("the device's key")?;
                member.key = SigningKey::from_bytes(seed);
                member.identity = Some((certificate, key));
            }
        }
        Ok(())
    }

    /// How a member connects.
    pub(super) fn address(&self, index: usize, core: &Core, scenario: &Scenario) -> anyhow::Result<Address> {
        let (member, transport) = (&self.members[index], scenario.transport);
        let (server, transport, with_certificate) = match transport.kind {
            TransportKind::Tcp => (core.address, Transport::Tcp, false),
            TransportKind::Websocket => (core.websocket_address()?, Transport::WebSocket, false),
            TransportKind::Tls => {
                (core.tls_address()?, Transport::Tls(self.config(Some(member))?), member.identity.is_some())
            }
            TransportKind::SecureWebsocket => {
                (core.secure_websocket_address()?, Transport::SecureWebSocket(self.config(None)?), false)
            }
        };
        let sources = scenario.transport.source_addresses;
        let last = u8::try_from(index % usize::try_from(sources)?)? + 1;
        Ok(Address {
            server,
            source: (sources > 1).then(|| Ipv4Addr::new(127, 0, 0, last)),
            transport,
            version: match scenario.transport.version {
                MqttVersion::V5 => Version::V5,
                MqttVersion::V3_1_1 => Version::V3_1_1,
            },
            says_to: format!("ft/{}/up", member.principal),
            principal: member.principal.to_string(),
            token: (!with_certificate).then(|| member.token.clone()),
        })
    }

    /// Trusts the core's authority; shows a device's certificate.
    fn config(&self, member: Option<&Member>) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots);
        let mut config = match member.and_then(|member| member.identity.as_ref()) {
            Some((certificate, key)) => {
                let chain = vec![certificate.clone(), self.authority.clone()];
                config.with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(key.clone_key()))?
            }
            None => config.with_no_client_auth(),
        };
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// Who pays, and who is paid.
    pub(super) fn accounts(&self, sort: Sort) -> (String, String) {
        let person = |member: usize| format!("person/{}", self.members[member].principal.id);
        match sort {
            Sort::Purchase { payer, chip, .. } => {
                (person(payer), format!("merchant/{}", self.merchant(chip - self.chips.start)))
            }
            Sort::Order { child, .. } => (format!("person/child-{child}"), person(self.guardian_of(child))),
        }
    }

    /// What an account has before anybody pays.
    pub(super) fn opening_minor(&self, account: &str) -> i128 {
        let is_rich = ["person/payer-", "person/child-"].iter().any(|prefix| account.starts_with(prefix));
        if is_rich { i128::from(WEALTH_MINOR) } else { 0 }
    }

    /// For whom a chip sells.
    pub(super) fn merchant_of(&self, chip: usize) -> MerchantId {
        self.merchants[(chip - self.chips.start) % self.merchants.len()].clone()
    }

    /// The merchant of chip `number`.
    fn merchant(&self, number: usize) -> &MerchantId {
        &self.merchants[number % self.merchants.len()]
    }

    pub(super) fn guardian_of(&self, number: usize) -> usize {
        self.guardians.start + number % self.guardians.len().max(1)
    }

    pub(super) fn money(&self, minor: u64) -> Money {
        self.currency.minor(minor)
    }
}

/// From the system's generator.
pub(super) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("no random bytes from the system")?;
    Ok(bytes)
}
