//! Where the device is: from gpsd, or from a file (PC-3, PC-9).

use std::io::{self, Read as _};
use std::str::FromStr;
use std::time::Duration;

use edge_agent_device::{Fix, PositionSettings};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::Deserialize;
use serde_json::Number;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::agent::Input;
use crate::clock::boot_ms;
use crate::connection::is_loopback;

/// Asks gpsd for reports (gpsd_json(5)).
const WATCH: &[u8] = b"?WATCH={\"enable\":true,\"json\":true};\n";
/// gpsd's own limit of a line is far below.
const LINE_BYTES: u64 = 64 << 10;
/// gpsd reports each second; one that says nothing for so long is asked anew.
const SILENCE: Duration = Duration::from_secs(60);
/// A gpsd that is not there is looked for again after this.
const RETRY: Duration = Duration::from_secs(2);
/// A file is looked at this often.
const LOOK: Duration = Duration::from_millis(500);
/// Most of a position's file.
const FILE_BYTES: u64 = 4 << 10;

/// Why there will be no position.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PositionError {
    #[error("`{0}` is no address of gpsd: write host:port in [position], for instance 127.0.0.1:2947")]
    Address(String),
    #[error(
        "gpsd at {0} is on another machine, and what comes from there is neither secret nor signed: use one on this \
         machine, or write remote = true into [position]"
    )]
    NotLoopback(String),
}

/// Looks at the settings without doing anything.
pub(crate) fn check(settings: &PositionSettings) -> Result<(), PositionError> {
    let PositionSettings::Gpsd { address, remote } = settings else { return Ok(()) };
    let (host, port) = address.rsplit_once(':').ok_or_else(|| PositionError::Address(address.clone()))?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(PositionError::Address(address.clone()));
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if *remote || is_loopback(host) { Ok(()) } else { Err(PositionError::NotLoopback(address.clone())) }
}

/// Tells the agent where the device is, until the agent ends.
pub(crate) async fn follow(settings: PositionSettings, inputs: mpsc::Sender<Input>) {
    match settings {
        PositionSettings::None => {}
        PositionSettings::Gpsd { address, .. } => {
            let mut complained = false;
            while !inputs.is_closed() {
                let before = complained;
                let ended = watch(&address, &inputs, &mut complained).await;
                if !before && let Err(error) = ended {
                    complained = true;
                    tracing::warn!(address, %error, "no position: check that gpsd runs; it is looked for again");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
        PositionSettings::File { path } => {
            let mut complained = false;
            loop {
                let fix = read_file(&path);
                if let Err(error) = &fix
                    && !std::mem::replace(&mut complained, true)
                {
                    tracing::warn!(path, error, "no position: check the file");
                }
                complained &= fix.is_err();
                if inputs.send(Input::Position(fix.ok())).await.is_err() {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// Until gpsd ends the connection or is silent. The last position grows old by itself.
async fn watch(address: &str, inputs: &mpsc::Sender<Input>, complained: &mut bool) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let (reading, mut writing) = stream.split();
    writing.write_all(WATCH).await?;
    let mut reading = BufReader::new(reading);
    let mut last = String::new();
    loop {
        let mut line = Vec::new();
        let mut rest = (&mut reading).take(LINE_BYTES);
        let read = rest.read_until(b'\n', &mut line);
        let bytes = tokio::time::timeout(SILENCE, read).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if bytes == 0 || line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *complained = false;
        if let Some(fix) = fix_of(&line, &mut last)
            && inputs.send(Input::Position(Some(fix))).await.is_err()
        {
            return Ok(());
        }
    }
}

/// A TPV report, as far as it is needed.
#[derive(Deserialize)]
struct Report {
    class: String,
    mode: Option<u8>,
    time: Option<String>,
    lat: Option<Number>,
    lon: Option<Number>,
    /// Estimated error of the position, in metres.
    eph: Option<Number>,
    epx: Option<Number>,
    epy: Option<Number>,
}

/// What a line of gpsd says of the position: a fix (mode 2 or 3) with a time of its own and a known error. `last` is the
/// time of the one before: a receiver that repeats itself knows nothing new.
fn fix_of(line: &[u8], last: &mut String) -> Option<Fix> {
    let report: Report = serde_json::from_slice(line).ok()?;
    if report.class != "TPV" || report.mode? < 2 {
        return None;
    }
    let time = report.time.filter(|time| time != last)?;
    let fix = Fix {
        latitude_e7: degrees_e7(&report.lat?, 90)?,
        longitude_e7: degrees_e7(&report.lon?, 180)?,
        accuracy_m: match (&report.eph, &report.epx, &report.epy) {
            (Some(eph), _, _) => metres(eph)?,
            // The sum is never less than the root of the squares.
            (None, Some(epx), Some(epy)) => metres(epx)?.checked_add(metres(epy)?)?,
            _ => return None,
        },
        at_boot_ms: boot_ms(),
    };
    *last = time;
    Some(fix)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    latitude: Number,
    longitude: Number,
    accuracy_m: u32,
}

fn read_file(path: &str) -> Result<Fix, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    io::Read::take(file, FILE_BYTES).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let written: Written = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let degrees = |number, most| degrees_e7(number, most).ok_or(format!("degrees lie within {most}"));
    Ok(Fix {
        latitude_e7: degrees(&written.latitude, 90)?,
        longitude_e7: degrees(&written.longitude, 180)?,
        accuracy_m: written.accuracy_m.max(1),
        at_boot_ms: boot_ms(),
    })
}

/// By its digits: no sum of floating point numbers.
fn decimal(number: &Number) -> Option<Decimal> {
    let text = number.to_string();
    Decimal::from_str(&text).or_else(|_| Decimal::from_scientific(&text)).ok()
}

fn degrees_e7(number: &Number, most: i32) -> Option<i32> {
    let degrees = decimal(number)?;
    let within = degrees.abs() <= Decimal::from(most);
    degrees.checked_mul(Decimal::from(10_000_000)).filter(|_| within)?.round().to_i32()
}

/// Rounded up, and never none.
fn metres(number: &Number) -> Option<u32> {
    decimal(number)?.ceil().to_u32().map(|metres| metres.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PC-3: as gpsd 3.22 writes it.
    #[test]
    fn only_a_new_fix_with_a_time_and_an_error_is_a_position() {
        let good = r#"{"class":"TPV","device":"/dev/pts/1","mode":3,"time":"2026-11-22T10:00:00.000Z","lat":52.520000008,"lon":13.404953,"eph":4.2,"speed":0.1}"#;
        let fix = |line: &str| fix_of(line.as_bytes(), &mut String::new());
        let found = fix(good).unwrap();
        assert_eq!((found.latitude_e7, found.longitude_e7, found.accuracy_m), (525_200_000, 134_049_530, 5));
        for (from, to) in [
            ("\"TPV\"", "\"SKY\""),
            ("\"mode\":3", "\"mode\":1"),
            ("\"mode\":3,", ""),
            ("\"time\":\"2026-11-22T10:00:00.000Z\",", ""),
            ("\"lat\":52.520000008,", ""),
            ("52.520000008", "92.5"),
            ("13.404953", "-180.1"),
            ("\"eph\":4.2", "\"epx\":4.2"),
            ("\"eph\":4.2", "\"eph\":-1e300"),
            ("{", ""),
        ] {
            let line = good.replacen(from, to, 1);
            assert_ne!(line, good);
            assert_eq!(fix(&line), None, "{line}");
        }
        for (from, to, accuracy_m) in [
            ("\"eph\":4.2", "\"epx\":3.2,\"epy\":5", 9),
            ("\"eph\":4.2", "\"eph\":0", 1),
            ("\"mode\":3", "\"mode\":2", 5),
        ] {
            assert_eq!(fix(&good.replacen(from, to, 1)).unwrap().accuracy_m, accuracy_m);
        }
        assert_eq!(fix(&good.replace("13.404953", "-1.5e-6")).unwrap().longitude_e7, -15);
        let mut last = String::new();
        assert!(fix_of(good.as_bytes(), &mut last).is_some());
        assert_eq!(fix_of(good.as_bytes(), &mut last), None, "it repeats itself");
        assert!(fix_of(good.replace("10:00:00", "10:00:01").as_bytes(), &mut last).is_some());
    }

    #[test]
    fn gpsd_of_another_machine_must_be_wanted() {
        let gpsd =
            |address: &str, remote| check(&PositionSettings::Gpsd { address: address.to_owned(), remote });
        assert!(gpsd("127.0.0.1:2947", false).is_ok() && gpsd("[::1]:2947", false).is_ok());
        assert!(matches!(gpsd("192.0.2.1:2947", false), Err(PositionError::NotLoopback(_))));
        assert!(gpsd("192.0.2.1:2947", true).is_ok());
        for bad in ["127.0.0.1", ":2947", "127.0.0.1:x"] {
            assert!(matches!(gpsd(bad, true), Err(PositionError::Address(_))), "{bad}");
        }
    }

    #[test]
    fn a_file_says_where_a_thing_is_that_never_moves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("position.json");
        let path_text = path.to_str().unwrap();
        assert!(read_file(path_text).is_err());
        std::fs::write(&path, r#"{"latitude": 52.52, "longitude": -13.4, "accuracy_m": 10}"#).unwrap();
        let fix = read_file(path_text).unwrap();
        assert_eq!((fix.latitude_e7, fix.longitude_e7, fix.accuracy_m), (525_200_000, -134_000_000, 10));
        std::fs::write(&path, r#"{"latitude": 95, "longitude": 0, "accuracy_m": 10}"#).unwrap();
        assert!(read_file(path_text).unwrap_err().contains("within 90"));
    }
}
