//! Places where children may pay, who scans there, and how long a code is valid (PC-6, PC-9, PC-10).

use std::collections::{BTreeMap, BTreeSet};

use schemas::cbor;
use schemas::ids::{MerchantId, PlaceId, Principal, PrincipalId, TenantId};
use schemas::limits::{CATALOGUE_BYTES, PLACE_RADIUS_M, PLACE_TITLE_BYTES, PLACES};
use schemas::message::{Categories, Place, Places, Position};
use schemas::signed::Catalogue;
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::registry::Registry;
use crate::rejection::Rejection;

/// How long a code is valid, when it is checked where it is, and in which form it is (PC-6, PC-9): a tenant's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodeRules {
    /// Validity where the piggy bank does not know its position, or there is no place to go to, in milliseconds.
    pub default_ms: u64,
    /// The shortest validity, in milliseconds.
    pub least_ms: u64,
    /// The longest validity, in milliseconds.
    pub most_ms: u64,
    /// How fast a child goes to the place, in millimetres per second.
    pub pace_mm_per_s: u64,
    /// What is added to the time of the way, in milliseconds.
    pub margin_ms: u64,
    /// Whether a code that is to be shown at once is shown only where it counts.
    pub check_at_once: bool,
    /// Whether QR codes are EMVCo merchant-presented payloads, where amount and categories have room in one. Terminals
    /// may hand in either form at any time.
    pub emvco: bool,
}

impl Default for CodeRules {
    fn default() -> Self {
        Self {
            default_ms: 600_000,
            least_ms: 120_000,
            most_ms: 3_600_000,
            pace_mm_per_s: 1_000,
            margin_ms: 300_000,
            check_at_once: true,
            emvco: false,
        }
    }
}

impl CodeRules {
    /// Journals of releases that knew no codes keep their bytes.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// How long a code is valid, in milliseconds: the way to the border at the pace, and the margin, within the bounds.
    /// It never shrinks with the distance. `None`: the distance is not known.
    ///
    /// ```
    /// use cloud_core_flows::places::CodeRules;
    /// let rules = CodeRules::default();
    /// assert_eq!(rules.valid_ms(Some(300)), 600_000); // five minutes' walk, and five minutes
    /// assert_eq!(rules.valid_ms(Some(0)), 300_000); // it is there already
    /// assert_eq!(rules.valid_ms(Some(50_000)), 3_600_000); // no longer than an hour
    /// assert_eq!(rules.valid_ms(None), 600_000);
    /// ```
    pub fn valid_ms(&self, distance_m: Option<u64>) -> u64 {
        let Some(distance_m) = distance_m else { return self.default_ms };
        let way_ms = u128::from(distance_m) * 1_000_000 / u128::from(self.pace_mm_per_s.max(1));
        let way_ms = u64::try_from(way_ms).unwrap_or(u64::MAX);
        way_ms.saturating_add(self.margin_ms).min(self.most_ms).max(self.least_ms)
    }

    pub(crate) fn changed(self, change: &CodeRulesChange) -> Self {
        Self {
            default_ms: change.default_ms.unwrap_or(self.default_ms),
            least_ms: change.least_ms.unwrap_or(self.least_ms),
            most_ms: change.most_ms.unwrap_or(self.most_ms),
            pace_mm_per_s: change.pace_mm_per_s.unwrap_or(self.pace_mm_per_s),
            margin_ms: change.margin_ms.unwrap_or(self.margin_ms),
            check_at_once: change.check_at_once.unwrap_or(self.check_at_once),
            emvco: change.emvco.unwrap_or(self.emvco),
        }
    }

    /// # Errors
    /// `code_rules_invalid`: nobody could pay by them.
    pub(crate) fn check(&self) -> Result<(), Rejection> {
        const WEEK_MS: u64 = 7 * 24 * 3_600_000;
        let invalid = |text| Err(Rejection::new("code_rules_invalid", text));
        if !(1_000..=WEEK_MS).contains(&self.least_ms) || !(self.least_ms..=WEEK_MS).contains(&self.most_ms) {
            return invalid("least_ms lies between 1 s and most_ms, and most_ms is at most 7 days");
        }
        if !(self.least_ms..=self.most_ms).contains(&self.default_ms) {
            return invalid("default_ms lies between least_ms and most_ms");
        }
        if !(1..=100_000).contains(&self.pace_mm_per_s) || self.margin_ms > WEEK_MS {
            return invalid("pace_mm_per_s is 1 to 100,000, and margin_ms at most 7 days");
        }
        Ok(())
    }
}

/// Other rules for codes; what is left out stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodeRulesChange {
    /// See [`CodeRules::default_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_ms: Option<u64>,
    /// See [`CodeRules::least_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least_ms: Option<u64>,
    /// See [`CodeRules::most_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most_ms: Option<u64>,
    /// See [`CodeRules::pace_mm_per_s`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pace_mm_per_s: Option<u64>,
    /// See [`CodeRules::margin_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin_ms: Option<u64>,
    /// See [`CodeRules::check_at_once`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_at_once: Option<bool>,
    /// See [`CodeRules::emvco`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emvco: Option<bool>,
}

impl CodeRulesChange {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A place, who is paid there, and who scans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisteredPlace {
    /// As piggy banks know it.
    pub place: Place,
    /// Who is paid there.
    pub merchant: MerchantId,
    /// People and devices who hand in codes there, 1 to [`limits::TERMINALS_OF_PLACE`]. Each is at one place at most.
    pub terminals: BTreeSet<PrincipalId>,
}

/// The places of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlacesOfTenant {
    /// Higher with each change; 0 before the first.
    version: u64,
    places: BTreeMap<PlaceId, RegisteredPlace>,
}

impl Registry {
    /// A place of a tenant.
    pub fn place(&self, tenant: &TenantId, place: &PlaceId) -> Option<&RegisteredPlace> {
        self.places.get(tenant)?.places.get(place)
    }

    /// The version of a tenant's places; 0 before the first.
    pub fn places_version(&self, tenant: &TenantId) -> u64 {
        self.places.get(tenant).map_or(0, |found| found.version)
    }

    /// What piggy banks keep of a tenant's places.
    pub(crate) fn catalogue(&self, tenant: &TenantId) -> Catalogue {
        let places = self.places_of(tenant).map(|found| found.place.clone()).collect();
        let version = self.places_version(tenant);
        Catalogue { tenant: tenant.clone(), version, places: Places::new(places).unwrap_or_default() }
    }

    /// All places, with their tenants.
    pub(crate) fn every_place(&self) -> impl Iterator<Item = (&TenantId, &RegisteredPlace)> {
        let all = self.places.iter();
        all.flat_map(|(tenant, found)| found.places.values().map(move |place| (tenant, place)))
    }

    /// Where this principal scans.
    pub(crate) fn place_of_terminal(&self, terminal: &Principal) -> Option<&RegisteredPlace> {
        self.places_of(&terminal.tenant).find(|found| found.terminals.contains(&terminal.id))
    }

    /// A place where this merchant is paid.
    pub(crate) fn place_paying(&self, tenant: &TenantId, merchant: &MerchantId) -> Option<&RegisteredPlace> {
        self.places_of(tenant).find(|found| found.merchant == *merchant)
    }

    /// Metres to the nearest place where this merchant is paid for one of the categories.
    pub(crate) fn nearest_place_m(
        &self,
        tenant: &TenantId,
        merchant: &MerchantId,
        categories: &Categories,
        position: &Position,
    ) -> Option<u64> {
        let counts = |found: &&RegisteredPlace| found.merchant == *merchant && found.place.takes(categories);
        self.places_of(tenant).filter(counts).map(|found| found.place.distance_m(position)).min()
    }

    /// Whether there is a place where this merchant is paid for one of the categories.
    pub(crate) fn is_paid_somewhere(
        &self,
        tenant: &TenantId,
        merchant: &MerchantId,
        categories: &Categories,
    ) -> bool {
        self.places_of(tenant).any(|found| found.merchant == *merchant && found.place.takes(categories))
    }

    fn places_of(&self, tenant: &TenantId) -> impl Iterator<Item = &RegisteredPlace> {
        self.places.get(tenant).into_iter().flat_map(|found| found.places.values())
    }

    /// Whether registering this place changes something.
    pub(crate) fn check_place(&self, tenant: &TenantId, new: &RegisteredPlace) -> Result<bool, Rejection> {
        self.require_tenant(tenant)?;
        self.require_merchant(tenant, &new.merchant)?;
        check_ground(&new.place)?;
        let name = &new.place.place;
        if new.terminals.is_empty() || new.terminals.len() > limits::TERMINALS_OF_PLACE {
            return Err(Rejection::new("terminals_invalid", "a place has 1 to 8 terminals who scan there"));
        }
        for id in &new.terminals {
            let terminal = Principal { tenant: tenant.clone(), id: id.clone() };
            if self.person(&terminal).is_none() && self.device(&terminal).is_none() {
                let text = format!("no person or device `{terminal}`: create it first");
                return Err(Rejection::new("principal_unknown", text));
            }
            let other = self.place_of_terminal(&terminal).map(|found| &found.place.place);
            if let Some(other) = other.filter(|other| *other != name) {
                let text = format!("`{terminal}` scans at `{other}`: take it out there first");
                return Err(Rejection::new("terminal_taken", text));
            }
        }
        self.check_room(tenant, new)?;
        Ok(self.place(tenant, name) != Some(new))
    }

    /// That all places of the tenant fit the one message in which piggy banks hear of them.
    fn check_room(&self, tenant: &TenantId, new: &RegisteredPlace) -> Result<(), Rejection> {
        /// Of the signature and the frame around it: about 80 bytes.
        const SIGNATURE_BYTES: usize = 128;
        let others = self.places_of(tenant).filter(|found| found.place.place != new.place.place);
        let all: Vec<Place> = others.map(|found| found.place.clone()).chain([new.place.clone()]).collect();
        let full = || {
            let text = format!(
                "all places of a tenant, at most {PLACES}, fit one message: remove one, or give them shorter titles or fewer categories"
            );
            Rejection::new("places_full", text)
        };
        let places = Places::new(all).map_err(|_| full())?;
        let catalogue = Catalogue { tenant: tenant.clone(), version: u64::MAX, places };
        if cbor::encode(&catalogue).len() + SIGNATURE_BYTES > CATALOGUE_BYTES { Err(full()) } else { Ok(()) }
    }

    /// Applies what was checked. Replay: total.
    pub(crate) fn set_place(&mut self, tenant: TenantId, new: RegisteredPlace, at: Timestamp) {
        let of_tenant = self.places.entry(tenant).or_default();
        of_tenant.version = of_tenant.next_version(at);
        of_tenant.places.insert(new.place.place.clone(), new);
    }

    /// Applies what was checked. Replay: total.
    pub(crate) fn remove_place(&mut self, tenant: &TenantId, place: &PlaceId, at: Timestamp) {
        if let Some(of_tenant) = self.places.get_mut(tenant)
            && of_tenant.places.remove(place).is_some()
        {
            of_tenant.version = of_tenant.next_version(at);
        }
    }
}

impl PlacesOfTenant {
    /// At least the time of the change: after a restore to an earlier point no version comes again with another content.
    fn next_version(&self, at: Timestamp) -> u64 {
        self.version.saturating_add(1).max(at.0)
    }
}

fn check_ground(place: &Place) -> Result<(), Rejection> {
    let title = place.title.as_str();
    if title.is_empty() || title.len() > PLACE_TITLE_BYTES {
        return Err(Rejection::new("title_invalid", "a place's title has 1 to 64 bytes"));
    }
    let is_on_earth =
        place.latitude_e7.unsigned_abs() <= 900_000_000 && place.longitude_e7.unsigned_abs() <= 1_800_000_000;
    if !is_on_earth {
        return Err(Rejection::new(
            "position_invalid",
            "latitude is -90 to 90 degrees, longitude -180 to 180",
        ));
    }
    if !(1..=PLACE_RADIUS_M).contains(&place.radius_m) {
        return Err(Rejection::new("radius_invalid", "a place's radius is 1 to 100,000 metres"));
    }
    Ok(())
}
