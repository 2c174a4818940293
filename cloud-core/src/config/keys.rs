//! The table of settings.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{Config, LogFormat};

/// One setting: a key of the file; `FARTHING_NAME` in the environment; `--name` on the command line.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) value_name: &'static str,
    pub(super) default: &'static str,
    pub(super) help: &'static str,
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    pub(super) show: fn(&Config) -> String,
}

macro_rules! keys {
    ($($name:ident: $value_name:literal = $default:literal, $parse:expr, $show:expr, $help:literal;)*) => {
        pub(super) const KEYS: &[Key] = &[$(Key {
            name: stringify!($name),
            value_name: $value_name,
            default: $default,
            help: $help,
            set: |config, text| {
                config.$name = $parse(text)?;
                Ok(())
            },
            show: |config| $show(&config.$name),
        },)*];
    };
}

keys! {
    data_dir: "DIR" = "./farthing-data", path, show_path,
        "Everything that must survive: journal, certificate authority, admin socket";
    listen_tcp: "ADDR" = "127.0.0.1:1883", address, show_address,
        "MQTT without TLS, loopback only; `off` for none; port 0 for any free one";
    listen_tls: "ADDR" = "127.0.0.1:8883", address, show_address,
        "MQTT over TLS with a server certificate of our own authority; `off` for none";
    listen_ws: "ADDR" = "off", address, show_address,
        "MQTT over WebSocket without TLS, loopback only; `off` for none";
    listen_wss: "ADDR" = "off", address, show_address,
        "MQTT over WebSocket and TLS, for browsers; `off` for none";
    wss_certificate: "FILE" = "off", optional_path, show_optional_path,
        "PEM file with the certificate chain of listen_wss, read again on SIGHUP; `off` for one of our own authority";
    wss_key: "FILE" = "off", optional_path, show_optional_path,
        "PEM file with the key of wss_certificate";
    listen_enrolment: "ADDR" = "127.0.0.1:8443", address, show_address,
        "Enrolment of devices over HTTPS; `off` for none";
    listen_admin: "ADDR" = "off", address, show_address,
        "Administration from elsewhere over TLS, for operators with a certificate; `off` for none";
    listen_http: "ADDR" = "127.0.0.1:9080", address, show_address,
        "healthz and metrics over HTTP, loopback only; `off` for none";
    server_names: "NAMES" = "localhost,127.0.0.1,::1", names, show_names,
        "Host names and addresses in the server certificate, separated by commas";
    log_format: "FORMAT" = "text", log_format, show_log_format,
        "How the log is written to stderr: `text` or `json`";
    log_filter: "FILTER" = "info,rumqttd=off", log_filter, String::clone,
        "What is logged: a level, or directives such as `info,cloud_core=debug`";
    max_connections: "N" = "20000", number(1, 1_000_000), ToString::to_string,
        "MQTT connections at one time";
    max_connections_per_address: "N" = "1000", number(1, 1_000_000), ToString::to_string,
        "MQTT connections at one time from one address; loopback is exempt, IPv6 counts by /64";
    principal_packets_per_second: "N" = "200", number(1, 100_000_000), ToString::to_string,
        "MQTT packets of one principal over all its connections, on average; more comes later (0x97, or it is not read)";
    principal_packets_burst: "N" = "5000", number(1, 1_000_000_000), ToString::to_string,
        "MQTT packets of one principal at once, after a silence";
    principal_bytes_per_second: "BYTES" = "262144", number(1024, 1_000_000_000), ToString::to_string,
        "Bytes of MQTT packets of one principal over all its connections, on average";
    principal_bytes_burst: "BYTES" = "8388608", number(16 << 10, 2_000_000_000), ToString::to_string,
        "Bytes of MQTT packets of one principal at once, after a silence";
    queue_messages: "N" = "4096", number(16, 1_000_000), ToString::to_string,
        "Messages that may wait for the core before connections have to";
    batch_messages: "N" = "1024", number(1, 65_536), ToString::to_string,
        "Most messages that the core decides in one batch";
    bank_timeout_ms: "MS" = "10000", number(10, 600_000), ToString::to_string,
        "One call to a bank over HTTP, connecting included, in milliseconds";
    bank_authority: "FILE" = "off", optional_path, show_optional_path,
        "PEM file with the authorities trusted for https banks; `off` for none";
    certificate_life_ms: "MS" = "63072000000", number(10_000, 10 * 366 * 24 * 3_600_000), ToString::to_string,
        "How long a new device certificate is valid, in milliseconds; devices renew at two thirds";
    renewal_grace_ms: "MS" = "0", number(0, 10 * 366 * 24 * 3_600_000), ToString::to_string,
        "How long after its end a device's certificate may still be renewed, and nothing else, in milliseconds";
    journal_segment_bytes: "BYTES" = "67108864", number(1 << 20, 1 << 30), ToString::to_string,
        "Length of each new journal segment in bytes, a multiple of 8";
    snapshot_every_segments: "N" = "4", number(1, 1000), ToString::to_string,
        "A snapshot is made when this many segments were closed since the last one";
}

/// Overwritten by the defaults of the table, so that each stands in one place.
pub(super) fn blank() -> Config {
    Config {
        data_dir: PathBuf::new(),
        listen_tcp: None,
        listen_tls: None,
        listen_ws: None,
        listen_wss: None,
        wss_certificate: None,
        wss_key: None,
        listen_enrolment: None,
        listen_admin: None,
        listen_http: None,
        server_names: Vec::new(),
        log_format: LogFormat::Text,
        log_filter: String::new(),
        max_connections: 0,
        max_connections_per_address: 0,
        principal_packets_per_second: 0,
        principal_packets_burst: 0,
        principal_bytes_per_second: 0,
        principal_bytes_burst: 0,
        queue_messages: 0,
        batch_messages: 0,
        bank_timeout_ms: 0,
        bank_authority: None,
        certificate_life_ms: 0,
        renewal_grace_ms: 0,
        journal_segment_bytes: 0,
        snapshot_every_segments: 0,
    }
}

const OFF: &str = "off";

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("write the path of a directory".into()) } else { Ok(PathBuf::from(text)) }
}

fn show_path(path: &Path) -> String {
    path.display().to_string()
}

fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    if text == OFF { Ok(None) } else { path(text).map(Some) }
}

fn show_optional_path(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(|| OFF.to_owned(), |path| show_path(path))
}

fn address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == OFF {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| "write address:port, for instance 127.0.0.1:1883 or [::1]:1883, or off".to_owned())
}

fn show_address(address: &Option<SocketAddr>) -> String {
    address.map_or_else(|| OFF.to_owned(), |address| address.to_string())
}

fn names(text: &str) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        let is_name = name.len() <= 253
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
            && !name.starts_with(['-', '.']);
        if !is_address && !is_name {
            return Err(format!("`{name}` is neither a host name nor an IP address"));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if names.len() > 32 {
        return Err("a certificate holds at most 32 names here".into());
    }
    Ok(names)
}

fn show_names(names: &[String]) -> String {
    names.join(",")
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("write text or json".into()),
    }
}

fn show_log_format(format: &LogFormat) -> String {
    match format {
        LogFormat::Text => "text".into(),
        LogFormat::Json => "json".into(),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("not a log filter ({error}): write a level, or target=level,...")),
    }
}

fn number<T>(smallest: T, largest: T) -> impl Fn(&str) -> Result<T, String>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    move |text| match text.parse::<T>() {
        Ok(number) if number >= smallest && number <= largest => Ok(number),
        Ok(_) => Err(format!("choose from {smallest} to {largest}")),
        Err(_) => Err(format!("write a whole number from {smallest} to {largest}")),
    }
}
