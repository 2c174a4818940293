//! Profiles are data: what a device is able to do, what it sells, how far it may go, which driver it uses.

mod paying;

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::{ItemId, MerchantId};
use schemas::limits as wire_limits;
use schemas::money::Money;
use serde::Deserialize;

use crate::limits;
use crate::suggest::explain_unknown_key;
pub use paying::{CodeDisplay, CodeRules, IdentitySettings, PositionSettings};

/// Why a profile was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Not TOML of this form.
    #[error("the profile cannot be read: {0}")]
    Form(String),
    /// Readable, and contradicts itself.
    #[error("the profile `{profile}` is refused: {reason}")]
    Content {
        /// Its name.
        profile: String,
        /// What is wrong and what would be accepted.
        reason: String,
    },
}

/// What a device is able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// Makes payment information that people pay (CP-1).
    IssuesPaymentInformation,
    /// Acts on commands from the cloud (CP-9).
    ExecutesCommands,
    /// Asks a child whether to pay (PC-3).
    AnswersPrompts,
}

/// What a chip asks of the machine before it says `ready` (CP-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// The housing is closed and sealed.
    Tamper,
    /// The item is there.
    Stock,
    /// The executor is able to act.
    Executor,
}

/// A profile that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// One sentence for people.
    pub summary: String,
    /// What the device sells or delivers.
    pub items: BTreeMap<ItemId, Item>,
    /// Present if it issues payment information.
    pub information: Option<InformationRules>,
    /// Present if it executes commands.
    pub executor: Option<ExecutorRules>,
    /// Present if it asks a child.
    pub prompt: Option<PromptRules>,
    /// Where its position comes from.
    pub position: PositionSettings,
    /// How it presents codes.
    pub code: CodeRules,
    /// How it makes sure who answers.
    pub identity: IdentitySettings,
    /// How it reaches its hardware.
    pub driver: DriverSettings,
}

/// One item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Most units in one command or payment.
    pub quantity_max: u32,
    /// Present if the device sells it.
    pub sale: Option<Sale>,
}

/// The terms on which an item is sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sale {
    /// Of one unit.
    pub price: Money,
    /// Who is paid.
    pub payee: MerchantId,
}

/// Rules for issuing payment information.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InformationRules {
    /// How long one may be paid unless somebody asks for another time, in milliseconds.
    pub valid_ms: u64,
    /// Longest that may be asked for, in milliseconds.
    pub valid_ms_max: u64,
    /// Most that may be open at a time.
    pub open_max: u32,
    /// What must hold for `ready`. Cloud time must always be known.
    #[serde(default)]
    pub conditions: BTreeSet<Condition>,
}

/// Rules for executing commands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutorRules {
    /// No act takes longer, in milliseconds; the cloud plans with it.
    pub longest_act_ms: u64,
    /// Commands that may wait, the running one included.
    pub queue_max: u32,
}

/// Rules for asking a child, and the hardware that asks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptRules {
    /// Prompts that may wait for an answer.
    pub queue_max: u32,
    /// Keys and buttons count only when none was pressed for this long since the prompt appeared, in milliseconds: a
    /// finger that rests on a key, or presses it twice, answers no second prompt.
    #[serde(default = "default_quiet_ms")]
    pub quiet_ms: u64,
    /// What shows the prompt.
    #[serde(default)]
    pub display: DisplaySettings,
    /// Buttons, besides what the display itself offers.
    pub buttons: Option<ButtonSettings>,
}

fn default_quiet_ms() -> u64 {
    500
}

/// What shows a prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DisplaySettings {
    /// Nothing: answered by buttons or `edge-agent prompt`.
    #[default]
    None,
    /// The terminal in which the agent runs; without one it does not start.
    Screen,
    /// The terminal in which the agent runs, or nothing where there is none.
    Auto,
    /// A program per prompt, killed when the prompt ends. Exit code 20 confirm, 21 reject, anything else (0 too) no answer.
    Process {
        /// Program and arguments; `{payment}`, `{amount}`, `{payee}`, `{note}`, `{categories}`, `{child}`,
        /// `{guardian}` and `{answer_by}` are replaced within an argument.
        argv: Vec<String>,
    },
}

/// A Linux input device (evdev).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ButtonSettings {
    /// Its path, for instance below `/dev/input/by-path/`.
    pub device: String,
    /// Key codes that confirm.
    pub confirm: BTreeSet<u16>,
    /// Key codes that reject.
    pub reject: BTreeSet<u16>,
}

/// How the hardware is reached. Faults are text that the simulated driver parses.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DriverSettings {
    /// No hardware to move.
    None,
    /// A program per act. Exit code 0 done, 10 failed, 11 done in part (units on the last line of stdout), anything
    /// else unknown.
    Process {
        /// Program and arguments; `{item}`, `{quantity}` and `{command}` are replaced within an argument.
        argv: Vec<String>,
        /// The program is killed after this, and the outcome is unknown.
        timeout_ms: u64,
    },
    /// No hardware: outcomes by list, acts into the physical log.
    Simulated {
        /// How long an act takes.
        act_ms: u64,
        /// One outcome per act, in turn: `done`, `failed:CODE`, `part:UNITS`, `unknown`, `hang`, `late:MS`. After
        /// the last one: done.
        #[serde(default)]
        faults: Vec<String>,
        /// Units of the items that are counted.
        #[serde(default)]
        stock: BTreeMap<ItemId, u32>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileText {
    name: String,
    summary: String,
    capabilities: BTreeSet<Capability>,
    #[serde(default)]
    items: Vec<ItemText>,
    #[serde(rename = "payment-information")]
    information: Option<InformationRules>,
    executor: Option<ExecutorRules>,
    prompt: Option<PromptRules>,
    position: Option<PositionSettings>,
    code: Option<CodeRules>,
    identity: Option<IdentitySettings>,
    driver: DriverSettings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemText {
    id: ItemId,
    quantity_max: u32,
    price: Option<Money>,
    payee: Option<MerchantId>,
}

impl Profile {
    /// From TOML.
    ///
    /// # Errors
    /// Unknown keys (the nearest known one is suggested), and what contradicts itself.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let raw: ProfileText = toml::from_str(text)
            .map_err(|error| ProfileError::Form(explain_unknown_key(&error.to_string())))?;
        raw.check()
    }
}

impl ProfileText {
    fn check(self) -> Result<Profile, ProfileError> {
        let name = self.name.clone();
        let refuse = |reason: String| ProfileError::Content { profile: name.clone(), reason };
        let issues = self.capabilities.contains(&Capability::IssuesPaymentInformation);
        let executes = self.capabilities.contains(&Capability::ExecutesCommands);
        if issues != self.information.is_some() {
            return Err(refuse(
                "`issues-payment-information` and the table [payment-information] go together".into(),
            ));
        }
        if executes != self.executor.is_some() {
            return Err(refuse("`executes-commands` and the table [executor] go together".into()));
        }
        if self.capabilities.contains(&Capability::AnswersPrompts) != self.prompt.is_some() {
            return Err(refuse("`answers-prompts` and the table [prompt] go together".into()));
        }
        let around = self.position.is_some() || self.code.is_some() || self.identity.is_some();
        if around && self.prompt.is_none() {
            return Err(refuse("[position], [code] and [identity] are for what `answers-prompts`".into()));
        }
        let (position, code) = (self.position.unwrap_or_default(), self.code.unwrap_or_default());
        let identity = self.identity.unwrap_or_default();
        position.check().and(code.check()).and(identity.check()).map_err(refuse)?;
        if let Some(rules) = &self.prompt {
            rules.check().map_err(refuse)?;
        }
        if let Some(rules) = &self.information {
            rules.check().map_err(refuse)?;
        }
        if let Some(rules) = &self.executor {
            rules.check(&self.driver).map_err(refuse)?;
        }
        let mut items = BTreeMap::new();
        for item in self.items {
            let id = item.id.clone();
            let item = item.check(issues).map_err(refuse)?;
            if items.insert(id.clone(), item).is_some() {
                return Err(refuse(format!("the item `{id}` stands there twice")));
            }
        }
        Ok(Profile {
            name: self.name,
            summary: self.summary,
            items,
            information: self.information,
            executor: self.executor,
            prompt: self.prompt,
            position,
            code,
            identity,
            driver: self.driver,
        })
    }
}

impl InformationRules {
    fn check(&self) -> Result<(), String> {
        if !(1000..=self.valid_ms_max).contains(&self.valid_ms)
            || self.valid_ms_max > wire_limits::REQUEST_LIFE_MS
        {
            return Err("write 1000 <= valid_ms <= valid_ms_max <= 86400000 (24 h)".into());
        }
        if self.open_max == 0 || self.open_max > limits::INFORMATIONS {
            return Err(format!("open_max is 1 to {}", limits::INFORMATIONS));
        }
        Ok(())
    }
}

impl ExecutorRules {
    fn check(&self, driver: &DriverSettings) -> Result<(), String> {
        if self.longest_act_ms == 0 || self.queue_max == 0 || self.queue_max > 64 {
            return Err("longest_act_ms is at least 1, queue_max 1 to 64".into());
        }
        match driver {
            DriverSettings::None => Err("an executor needs a driver: `process` or `simulated`".into()),
            DriverSettings::Process { argv, timeout_ms } => {
                if argv.is_empty() {
                    return Err("argv names the program to run".into());
                }
                if *timeout_ms > self.longest_act_ms {
                    return Err("timeout_ms is at most longest_act_ms".into());
                }
                Ok(())
            }
            DriverSettings::Simulated { .. } => Ok(()),
        }
    }
}

impl PromptRules {
    fn check(&self) -> Result<(), String> {
        if self.queue_max == 0 || self.queue_max > limits::PROMPTS_OPEN || self.quiet_ms > limits::QUIET_MS {
            let (open, quiet) = (limits::PROMPTS_OPEN, limits::QUIET_MS);
            return Err(format!("queue_max of [prompt] is 1 to {open}, quiet_ms at most {quiet}"));
        }
        if matches!(&self.display, DisplaySettings::Process { argv } if argv.is_empty()) {
            return Err("argv of [prompt.display] names the program to run".into());
        }
        let Some(buttons) = &self.buttons else { return Ok(()) };
        let few = |keys: &BTreeSet<u16>| (1..=limits::KEYS).contains(&keys.len());
        if !few(&buttons.confirm) || !few(&buttons.reject) || !buttons.confirm.is_disjoint(&buttons.reject) {
            return Err(format!(
                "confirm and reject of [prompt.buttons] are 1 to {} key codes each, none of them in both",
                limits::KEYS
            ));
        }
        Ok(())
    }
}

impl ItemText {
    fn check(self, issues: bool) -> Result<Item, String> {
        if self.quantity_max == 0 || self.quantity_max > wire_limits::QUANTITY {
            return Err(format!("quantity_max of `{}` is 1 to {}", self.id, wire_limits::QUANTITY));
        }
        let sale = match (self.price, self.payee) {
            (Some(price), Some(payee)) => Some(Sale { price, payee }),
            (None, None) if !issues => None,
            _ => return Err(format!("`{}` needs both price and payee to be sold", self.id)),
        };
        Ok(Item { quantity_max: self.quantity_max, sale })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHIP: &str = include_str!("../../profiles/payment-chip.toml");
    const EXECUTOR: &str = include_str!("../../profiles/vending-executor.toml");

    const PIGGY_BANK: &str = include_str!("../../profiles/piggy-bank.toml");

    #[test]
    fn the_shipped_profiles_are_accepted() {
        let piggy_bank = Profile::parse(PIGGY_BANK).unwrap();
        assert_eq!(piggy_bank.prompt.unwrap().display, DisplaySettings::Auto);
        let around = (piggy_bank.position, piggy_bank.code.display, piggy_bank.identity);
        assert_eq!(around, (PositionSettings::None, CodeDisplay::Screen, IdentitySettings::None));
        let chip = Profile::parse(CHIP).unwrap();
        assert!(chip.information.is_some() && chip.items.values().all(|item| item.sale.is_some()));
        let executor = Profile::parse(EXECUTOR).unwrap();
        assert!(executor.executor.is_some());
        for item in chip.items.keys() {
            assert!(executor.items.contains_key(item), "what the chip sells the executor delivers: {item}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let wrong = CHIP.replace("valid_ms_max", "valid_ms_mx");
        let error = Profile::parse(&wrong).unwrap_err().to_string();
        assert!(error.contains("did you mean `valid_ms_max`?"), "{error}");
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        for (text, from, to, why) in [
            (CHIP, "\"issues-payment-information\"", "\"executes-commands\"", "go together"),
            (CHIP, "payee = \"snacks\"", "", "price and payee"),
            (CHIP, "quantity_max = 10", "quantity_max = 0", "quantity_max"),
            (CHIP, "open_max = 64", "open_max = 100000", "open_max"),
            (EXECUTOR, "kind = \"simulated\"", "kind = \"process\"\nargv = []\ntimeout_ms = 1", "argv"),
            (EXECUTOR, "queue_max = 4", "queue_max = 0", "queue_max"),
            (PIGGY_BANK, "\"answers-prompts\"", "", "go together"),
            (PIGGY_BANK, "queue_max = 16", "queue_max = 17", "queue_max"),
            (PIGGY_BANK, "queue_max = 16", "queue_max = 16\nquiet_ms = 5001", "quiet_ms"),
            (PIGGY_BANK, "kind = \"auto\"", "kind = \"process\"\nargv = []", "argv"),
            (EXECUTOR, "[driver]", "[position]\nkind = \"gpsd\"\n[driver]", "answers-prompts"),
            (
                PIGGY_BANK,
                "[position]\nkind = \"none\"",
                "[position]\nkind = \"file\"\npath = \"\"",
                "[position]",
            ),
            (PIGGY_BANK, "kind = \"screen\"\n\n", "kind = \"process\"\nargv = []\n\n", "[code.display]"),
            (
                PIGGY_BANK,
                "[identity]\nkind = \"none\"",
                "[identity]\nkind = \"process\"\nargv = [\"x\"]\ntimeout_ms = 1",
                "timeout_ms of [identity]",
            ),
            (
                PIGGY_BANK,
                "[driver]",
                "[prompt.buttons]\ndevice = \"x\"\nconfirm = [28]\nreject = [28]\n[driver]",
                "none of them in both",
            ),
        ] {
            let changed = text
                .replace(from, to)
                .replace("act_ms = 500\n", if to.contains("argv") { "" } else { "act_ms = 500\n" });
            assert_ne!(changed, text, "{from}");
            let error = Profile::parse(&changed).unwrap_err().to_string();
            assert!(error.contains(why), "{from} -> {to}: {error}");
        }
    }
}
