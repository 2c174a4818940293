//! Places where children may pay, on the command line (PC-9).

use std::str::FromStr;

use clap::Subcommand;
use cloud_core_flows::admin::{AdminCommand, Listing};
use cloud_core_flows::places::RegisteredPlace;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use schemas::ids::{CategoryId, MerchantId, PlaceId, PrincipalId};
use schemas::message::{Categories, Place};
use schemas::wire::Text;

use super::registered::{Wanted, one};
use super::values::Scoped;

#[derive(Debug, Subcommand)]
pub(super) enum Places {
    /// All places.
    List(Wanted),
    /// One place.
    Show {
        /// TENANT/NAME
        place: Scoped<PlaceId>,
    },
    /// A new place, or another content of the one of this name: what is not named is not kept.
    Set {
        /// TENANT/NAME
        place: Scoped<PlaceId>,
        /// For the child to read; the name if left out.
        #[arg(long)]
        title: Option<String>,
        /// Its middle in degrees, north and east positive: 52.5200,13.4050
        #[arg(long, value_name = "LAT,LON", allow_hyphen_values = true)]
        at: Degrees,
        /// From its middle to its border, in metres.
        #[arg(long, value_name = "METRES")]
        radius_m: u32,
        /// What can be paid for there; may be repeated.
        #[arg(long = "category", value_name = "NAME", required = true)]
        categories: Vec<CategoryId>,
        /// Who is paid there.
        #[arg(long, value_name = "NAME")]
        merchant: MerchantId,
        /// A person or device who scans there; may be repeated.
        #[arg(long = "terminal", value_name = "NAME", required = true)]
        terminals: Vec<PrincipalId>,
    },
    /// Nobody pays there any more.
    Remove {
        /// TENANT/NAME
        place: Scoped<PlaceId>,
    },
}

impl Places {
    pub(super) fn command(self) -> anyhow::Result<AdminCommand> {
        Ok(match self {
            Self::List(wanted) => wanted.of(Listing::Places, None),
            Self::Show { place } => one(Listing::Places, &format_args!("{}/{}", place.tenant, place.name)),
            Self::Remove { place: Scoped { tenant, name: place } } => {
                AdminCommand::RemovePlace { tenant, place }
            }
            Self::Set { place, title, at, radius_m, categories, merchant, terminals } => {
                let Scoped { tenant, name } = place;
                let place = Place {
                    title: Text::new(title.unwrap_or_else(|| name.to_string())),
                    place: name,
                    latitude_e7: at.latitude_e7,
                    longitude_e7: at.longitude_e7,
                    radius_m,
                    categories: Categories::new(categories)?,
                };
                let terminals = terminals.into_iter().collect();
                AdminCommand::SetPlace { tenant, entry: RegisteredPlace { place, merchant, terminals } }
            }
        })
    }
}

/// A point on the ground, times 10^7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Degrees {
    latitude_e7: i32,
    longitude_e7: i32,
}

impl FromStr for Degrees {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "write LAT,LON in degrees, for instance 52.5200,13.4050".to_owned();
        let e7 = |text: &str, most: u32| {
            let degrees: Decimal = text.trim().parse().ok()?;
            let e7 = degrees.checked_mul(Decimal::from(10_000_000))?.round().to_i32()?;
            (e7.unsigned_abs() <= most * 10_000_000).then_some(e7)
        };
        let (latitude, longitude) = text.split_once(',').ok_or_else(expected)?;
        let latitude_e7 = e7(latitude, 90).ok_or_else(expected)?;
        let longitude_e7 = e7(longitude, 180).ok_or_else(expected)?;
        Ok(Self { latitude_e7, longitude_e7 })
    }
}

/// As [`Degrees`] reads it.
pub(super) fn degrees(latitude_e7: i32, longitude_e7: i32) -> String {
    let text = |e7: i32| Decimal::new(i64::from(e7), 7).normalize();
    format!("{},{}", text(latitude_e7), text(longitude_e7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degrees_are_read_as_they_are_shown() {
        for (text, latitude_e7, longitude_e7) in [
            ("52.52,13.405", 525_200_000, 134_050_000),
            ("-33.8688,151.2093", -338_688_000, 1_512_093_000),
            ("90,-180", 900_000_000, -1_800_000_000),
            ("0.0000001,0", 1, 0),
        ] {
            assert_eq!(text.parse(), Ok(Degrees { latitude_e7, longitude_e7 }), "{text}");
            assert_eq!(degrees(latitude_e7, longitude_e7), text);
        }
        for bad in ["52.52", "90.1,0", "0,180.1", "north,east", "", "1e3,0"] {
            assert!(bad.parse::<Degrees>().is_err(), "{bad}");
        }
    }
}
