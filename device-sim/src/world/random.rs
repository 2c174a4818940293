//! The only source of chance in a world: SplitMix64 (Steele, Lea, Flood 2014), small and the same everywhere.
//!
//! Each concern and each fault has a stream of its own, derived from the seed and its name. So a world without one
//! fault, or with a new one, is otherwise nearly the same world: that is what makes a failing world shrink.

use super::fault::Fault;

/// The streams of one world.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    /// Who lives here and how often what fails.
    pub(super) plan: Random,
    /// Ids, keys and nonces.
    pub(super) ids: Random,
    /// Purchases, in order.
    pub(super) shop: Random,
    pub(super) network: Random,
    pub(super) people: Random,
    pub(super) bank: Random,
    /// The core's process and its disk.
    pub(super) core: Random,
    /// The devices' processes and their disks.
    pub(super) machines: Random,
    pub(super) hardware: Random,
    /// The operator and the technician.
    pub(super) office: Random,
    /// Children, their guardians and piggy banks.
    pub(super) family: Random,
    /// People who pay from their own accounts.
    pub(super) own: Random,
    /// What children wish for.
    pub(super) wishes: Random,
    /// What was checked before the core reads it.
    pub(super) checks: Random,
    faults: Vec<Random>,
}

impl Streams {
    pub(super) fn new(seed: u64) -> Self {
        let named = |name: &str| Random::named(seed, name);
        Self {
            plan: named("plan"),
            ids: named("ids"),
            shop: named("shop"),
            network: named("network"),
            people: named("people"),
            bank: named("bank"),
            core: named("core"),
            machines: named("machines"),
            hardware: named("hardware"),
            office: named("office"),
            family: named("family"),
            own: named("own"),
            wishes: named("wishes"),
            checks: named("checks"),
            faults: Fault::ALL.iter().map(|fault| Random::named(seed, fault.as_str())).collect(),
        }
    }

    /// Whether this fault strikes, and how hard.
    pub(super) fn of(&mut self, fault: Fault) -> &mut Random {
        // `Fault::ALL` is in the order of the declaration.
        &mut self.faults[fault as usize]
    }
}

/// One stream of numbers.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream of this name, for instance a fault's, in the world of this seed.
    pub(crate) fn named(seed: u64, name: &str) -> Self {
        // FNV-1a, so that a stream does not depend on which others there are.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut mixed = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash);
        Self(mixed.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `bound` - 1; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    pub(crate) fn units(&mut self, low: u32, high: u32) -> u32 {
        u32::try_from(self.range(u64::from(low), u64::from(high))).unwrap_or(low)
    }

    pub(crate) fn chance(&mut self, permille: u64) -> bool {
        permille > 0 && self.below(1000) < permille
    }

    /// By how much a clock is set: minutes or hours, either way.
    pub(crate) fn step_ms(&mut self) -> i64 {
        let most = if self.chance(500) { 10 * 60_000 } else { 6 * 3_600_000 };
        let step = i64::try_from(self.range(60_000, most)).unwrap_or(60_000);
        if self.chance(500) { step } else { -step }
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_be_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        bytes
    }
}
