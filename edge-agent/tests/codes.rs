//! The real agent with codes, places and positions, against the real lane; and the scanner (PC-6, PC-7, PC-9, PC-10, PC-16).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use ed25519_dalek::SigningKey;
use schemas::ids::PaymentId;
use schemas::message::{
    Categories, CodeClaim, CodeClaims, Down, PaymentCode, PaymentMode, PaymentPrompt, PaymentScan,
    PaymentState, PaymentStatus, Place, Places, PlacesAnswer, PromptAnswer, RequestAnswer, ShowCode, Up,
};
use schemas::signed::{Catalogue, Payer, PaymentQr, PaymentToken, Presented, PublicKey};
use schemas::time::Timestamp;
use schemas::wire::Text;
use serde_json::Value;
use support::{Agent, Cloud, Machine, NOW_MS, PATIENCE};

fn id(number: u8) -> PaymentId {
    PaymentId([number; 16])
}

fn cloud_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn lunch() -> Categories {
    Categories::new(vec!["lunch".parse().unwrap()]).unwrap()
}

/// A school of 100 m around 52.52 N, 13.4 E.
fn places(version: u64, key: &SigningKey) -> PlacesAnswer {
    let school = Place {
        place: "school".parse().unwrap(),
        title: Text::new("The school"),
        latitude_e7: 525_200_000,
        longitude_e7: 134_000_000,
        radius_m: 100,
        categories: lunch(),
    };
    let places = Places::new(vec![school]).unwrap();
    let catalogue = Catalogue { tenant: "acme".parse().unwrap(), version, places };
    PlacesAnswer { version, catalogue: Some(catalogue.sign(key).unwrap()), signer: PublicKey::of(key) }
}

/// As long as the cloud makes it.
fn code(number: u8, show: ShowCode, expires_at_ms: u64) -> PaymentCode {
    let contains = CodeClaims::new(vec![CodeClaim::Device, CodeClaim::Child, CodeClaim::Category]).unwrap();
    let (device, child) = ("machine-1".parse().unwrap(), "mia".parse().unwrap());
    let qr = PaymentQr {
        tenant: "acme".parse().unwrap(),
        payment: id(number),
        payee: "canteen".parse().unwrap(),
        amount: "2.50 EUR".parse().unwrap(),
        payer: Payer::claimed(&contains, &device, &child, &lunch()),
        issued_at: Timestamp(NOW_MS),
        expires_at: Timestamp(expires_at_ms),
    };
    PaymentCode {
        payment: id(number),
        mode: PaymentMode::Qr,
        amount: qr.amount,
        payee: Text::new("Canteen\u{1b}[2J"),
        code: Some(qr.sign(&cloud_key())),
        contains,
        child,
        categories: lunch(),
        place: None,
        show,
        check_place: true,
        places_version: 1,
        expires_at: Timestamp(expires_at_ms),
    }
}

fn for_long(number: u8, show: ShowCode) -> PaymentCode {
    code(number, show, NOW_MS + 600_000)
}

/// A profile with a position from a file and with other tables in place of the shipped ones.
struct Piggy {
    machine: Machine,
    profile: PathBuf,
    position: PathBuf,
}

impl Piggy {
    fn new(cloud: &Cloud, changes: &[(&str, String)]) -> Self {
        let machine = Machine::new(cloud, "piggy-bank");
        let position = machine.data.with_file_name("position.json");
        let file = format!("[position]\nkind = \"file\"\npath = \"{}\"", position.display());
        let mut text = include_str!("../profiles/piggy-bank.toml").to_owned();
        let tables = [("[position]\nkind = \"none\"", file)];
        // A change of the same table comes first.
        for (from, to) in changes.iter().chain(&tables) {
            text = text.replacen(from, to, 1);
        }
        let profile = machine.data.with_file_name("piggy.toml");
        std::fs::write(&profile, text).unwrap();
        Self { machine, profile, position }
    }

    fn start(&self) -> Agent {
        self.machine.start(|command| {
            command.arg("--profile").arg(&self.profile);
        })
    }

    /// So many metres north of the middle of the school, for the next look at the file.
    fn stand(&self, north_m: u32) {
        let latitude_e7 = 525_200_000 + north_m * 90;
        let text = format!("{{\"latitude\": {latitude_e7}e-7, \"longitude\": 13.4, \"accuracy_m\": 10}}");
        let new = self.position.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.position).unwrap();
    }

    /// The list as soon as `wanted` accepts it.
    fn list(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.machine.call(&["code", "list", "--json"]);
            if output.status.success() {
                let list = serde_json::from_slice(&output.stdout).unwrap();
                if wanted(&list) {
                    return list;
                }
            }
            assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&output.stdout));
        }
    }

    /// The first code is there, and would be shown or not.
    fn until(&self, not_now: Option<&str>) -> Value {
        self.list(|list| {
            let first = &list["codes"][0];
            first["payment"].is_string() && first["not_now"][0].as_str() == not_now
        })
    }
}

fn appears(path: &Path) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match std::fs::read(path) {
            Ok(bytes) if !bytes.is_empty() => return bytes,
            _ => assert!(Instant::now() < deadline, "{} does not appear", path.display()),
        }
        std::thread::yield_now();
    }
}

fn vanishes(path: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while path.exists() {
        assert!(Instant::now() < deadline, "{} does not vanish", path.display());
        std::thread::yield_now();
    }
}

/// PC-6, PC-9: shown only at the place, as a picture and on the projector's file; elsewhere it says why not.
#[test]
fn a_code_is_shown_at_its_place_and_says_why_not_elsewhere() {
    use std::os::unix::fs::PermissionsExt;

    let cloud = Cloud::start();
    cloud.know_places(places(1, &cloud_key()));
    let directory = tempfile::tempdir().unwrap();
    let projected = directory.path().join("projected.png");
    std::fs::write(&projected, "of a life before").unwrap();
    let display = format!("kind = \"file\"\npath = \"{}\"", projected.display());
    let piggy = Piggy::new(&cloud, &[("kind = \"screen\"\n\n", display + "\n\n")]);
    let agent = piggy.start();
    let sent = for_long(1, ShowCode::OnRequest);
    let text = sent.code.clone().unwrap();
    cloud.owe(Down::PaymentCode(sent));
    cloud.until_nothing_is_owed();
    assert!(!projected.exists(), "what a former life showed is gone");
    for (stand, expected) in
        [(None, "position_unknown"), (Some(500), "not_at_a_place"), (Some(95), "position_inaccurate")]
    {
        stand.iter().for_each(|north_m| piggy.stand(*north_m));
        let list = piggy.until(Some(expected));
        assert!(!list.to_string().contains("FQ1"), "the list is not the code: {list}");
        let refused = piggy.machine.call(&["code", "show", "--json"]);
        let failure: Value = serde_json::from_slice(&refused.stderr).unwrap();
        assert_eq!((failure["error"].as_str(), refused.status.code()), (Some(expected), Some(6)));
    }
    let table = String::from_utf8(piggy.machine.call(&["code", "list"]).stdout).unwrap();
    assert!(table.contains("2.50 EUR  Canteen [2J") && table.contains("go further in"), "{table}");
    assert!(!projected.exists());

    piggy.stand(30);
    piggy.until(None);
    let shown = piggy.machine.json(&["code", "show"]);
    assert_eq!(shown["code"], text.as_str());
    assert_eq!(appears(&projected)[1..4], *b"PNG");
    assert_eq!(std::fs::metadata(&projected).unwrap().permissions().mode() & 0o777, 0o600);
    let picture = directory.path().join("own.png");
    let svg = directory.path().join("own.svg");
    let paths = ["--png", picture.to_str().unwrap(), "--svg", svg.to_str().unwrap()];
    let output = piggy.machine.call(&[&["code", "show", &id(1).to_string()], &paths[..]].concat());
    assert!(output.status.success(), "{output:?}");
    assert!(std::fs::read_to_string(svg).unwrap().contains("<svg"));
    let lines = String::from_utf8(piggy.machine.call(&["code", "show"]).stdout).unwrap();
    assert!(lines.contains('\u{2588}') && lines.contains(text.as_str()), "{lines}");

    // The pictures are read by the scanner, of another cloud so that only it hears the answer.
    for path in [&picture, &projected] {
        let till = Cloud::start();
        let (scan, output) = scan(&till, &["--image", path.to_str().unwrap()], |key| accepted(key, 1));
        assert_eq!(scan.code, text);
        assert!(output.status.success(), "{output:?}");
    }
    cloud.owe(result(1, PaymentState::Settled));
    vanishes(&projected);
    assert_eq!(piggy.list(|_| true)["codes"].as_array().unwrap().len(), 0);
    let over = piggy.machine.call(&["code", "show", &id(1).to_string()]);
    assert!(String::from_utf8_lossy(&over.stderr).contains("over already"), "{over:?}");
    assert_eq!(agent.terminate(), Some(0));
}

fn result(number: u8, state: PaymentState) -> Down {
    Down::PaymentStatus(PaymentStatus {
        payment: id(number),
        state,
        amount: "2.50 EUR".parse().unwrap(),
        paid: "2.50 EUR".parse().unwrap(),
        delivered: 0,
        quantity: 0,
        reason: None,
        text: Text::new("done"),
        at: Timestamp(NOW_MS),
    })
}

/// PC-6, PC-15: a code that is shown at once goes to the program, and vanishes at its end; so does its program.
#[test]
fn a_program_gets_the_code_and_ends_with_it() {
    let cloud = Cloud::start();
    cloud.know_places(places(1, &cloud_key()));
    let directory = tempfile::tempdir().unwrap();
    let got = directory.path().join("got");
    let alive = directory.path().join("alive");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &alive, mode).unwrap();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let mut helper = std::fs::File::from(rustix::fs::open(&alive, flags, rustix::fs::Mode::empty()).unwrap());
    let script = format!(
        "exec 3> '{alive}'; printf '%s ' \\\"$*\\\" > '{got}.new'; head -n 1 >> '{got}.new'; \
         mv '{got}.new' '{got}'; exec sleep 1000",
        got = got.display(),
        alive = alive.display()
    );
    let argv = format!(
        "kind = \"process\"\nargv = [\"/bin/sh\", \"-c\", \"{script}\", \"show\", \"{{payment}}\", \"{{mode}}\", \
         \"{{amount}}\"]\n\n"
    );
    let piggy = Piggy::new(&cloud, &[("kind = \"screen\"\n\n", argv)]);
    piggy.stand(0);
    let _agent = piggy.start();
    let sent = code(1, ShowCode::AtOnce, NOW_MS + 10_000);
    let text = sent.code.clone().unwrap();
    cloud.owe(Down::PaymentCode(sent));
    let said = String::from_utf8(appears(&got)).unwrap();
    assert_eq!(said, format!("{} qr 2.50 EUR {text}\n", id(1)));
    let list = piggy.list(|_| true);
    assert!(list["codes"].as_array().unwrap().iter().all(|code| code["shown"] == true), "{list}");
    // Ends when nobody holds the other end any more: the program is gone, and its helper.
    let deadline = Instant::now() + PATIENCE;
    while !matches!(helper.read(&mut [0; 1]), Ok(0)) {
        assert!(Instant::now() < deadline, "the program outlives its code");
        std::thread::yield_now();
    }
    let list = piggy.list(|list| list["codes"].as_array().unwrap().is_empty());
    assert_eq!(list["places"]["version"], 1);
    let late = piggy.machine.call(&["code", "show", &id(1).to_string(), "--json"]);
    let failure: Value = serde_json::from_slice(&late.stderr).unwrap();
    assert_eq!((failure["error"].as_str(), late.status.code()), (Some("code_expired"), Some(6)));
}

/// PC-7: a token is signed with the device's key, and printed for what is no scanner.
#[test]
fn a_token_is_presented_as_text() {
    let cloud = Cloud::start();
    cloud.know_places(places(1, &cloud_key()));
    let piggy = Piggy::new(&cloud, &[]);
    piggy.stand(0);
    let _agent = piggy.start();
    let token = PaymentCode { mode: PaymentMode::Token, code: None, ..for_long(1, ShowCode::OnRequest) };
    cloud.owe(Down::PaymentCode(token));
    piggy.until(None);
    let output = piggy.machine.call(&["code", "present"]);
    assert!(output.status.success(), "{output:?}");
    let text: schemas::signed::CodeText = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let key: PublicKey = piggy.machine.json(&["key"])["public_key"].as_str().unwrap().parse().unwrap();
    let Some(Presented::Token(signed)) = text.presented() else { panic!("{text}") };
    let token = PaymentToken::verify(&signed, &key).unwrap();
    assert_eq!((token.payment, token.device.to_string().as_str()), (id(1), support::WHO));
    assert_eq!(piggy.machine.json(&["code", "show"])["code"], text.as_str(), "the same as long as it counts");

    cloud.owe(Down::PaymentCode(for_long(2, ShowCode::OnRequest)));
    piggy.list(|list| list["codes"].as_array().unwrap().len() == 2);
    let ambiguous = piggy.machine.call(&["code", "present"]);
    assert!(String::from_utf8_lossy(&ambiguous.stderr).contains("name the payment"), "{ambiguous:?}");
    let qr = piggy.machine.call(&["code", "present", &id(2).to_string()]);
    assert!(String::from_utf8_lossy(&qr.stderr).contains("code show"), "{qr:?}");
}

/// PC-9: places that another key has signed are refused, and `status` says so.
#[test]
fn forged_places_are_refused_and_that_is_said() {
    let cloud = Cloud::start();
    let mut forged = places(1, &SigningKey::from_bytes(&[2; 32]));
    forged.signer = PublicKey::of(&cloud_key());
    cloud.know_places(forged);
    let piggy = Piggy::new(&cloud, &[]);
    piggy.stand(0);
    let _agent = piggy.start();
    cloud.owe(Down::PaymentCode(for_long(1, ShowCode::AtOnce)));
    piggy.until(Some("places_unknown"));
    // The code may come before the places that are refused.
    let list = piggy.list(|list| list["places"]["refused"] == "places_forged");
    assert_eq!(list["codes"][0]["shown"], false, "{list}");
    let status = String::from_utf8(piggy.machine.call(&["status"]).stdout).unwrap();
    assert!(status.contains("REFUSED a list: places_forged"), "{status}");
}

/// PC-9, correctness.md 5: with unsynced writes lost, a kill at any step loses no code that was acknowledged.
#[cfg(debug_assertions)]
#[test]
fn a_power_cut_at_any_step_loses_no_code() {
    use std::os::unix::process::ExitStatusExt;

    let cloud = Cloud::start();
    cloud.know_places(places(1, &cloud_key()));
    for (number, step) in (1..).zip(["inbox-appended:1", "inbox-synced:1", "acknowledged:1"]) {
        let piggy = Piggy::new(&cloud, &[]);
        piggy.stand(0);
        let life = |step: Option<&str>| {
            piggy.machine.start(|command| {
                command.arg("--profile").arg(&piggy.profile).env("FARTHING_HOLD_WRITES", "1");
                step.iter().for_each(|step| _ = command.env("FARTHING_KILL_AT", step));
            })
        };
        let mut killed = life(Some(step));
        cloud.owe(Down::PaymentCode(for_long(number, ShowCode::OnRequest)));
        assert_eq!(killed.0.wait().unwrap().signal(), Some(9), "{step} was not passed");
        let restarted = life(None);
        piggy.until(None);
        assert_eq!(piggy.machine.json(&["code", "show"])["payment"], id(number).to_string(), "{step}");
        cloud.until_nothing_is_owed();
        assert_eq!(restarted.terminate(), Some(0), "{step}");
    }
}

fn prompt(number: u8, identify: Option<bool>) -> Down {
    Down::PaymentPrompt(PaymentPrompt {
        payment: id(number),
        child: "mia".parse().unwrap(),
        guardian: "dad".parse().unwrap(),
        payee: Text::new("Canteen"),
        amount: "2.50 EUR".parse().unwrap(),
        ordered: "2.50 EUR".parse().unwrap(),
        categories: lunch(),
        note: None,
        answer_by: Timestamp(NOW_MS + 600_000),
        mode: Some(PaymentMode::Qr),
        identify,
    })
}

fn answered(cloud: &Cloud) -> PromptAnswer {
    cloud.until(|up| match up {
        Up::PaymentPrompt(answer) => Some(answer),
        _ => None,
    })
}

fn asked(piggy: &Piggy, number: u8) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = piggy.machine.call(&["prompt", "list", "--json"]);
        let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if list["prompts"][0]["payment"] == id(number).to_string() {
            return;
        }
        assert!(Instant::now() < deadline, "{output:?}");
    }
}

/// PC-16: a program says whether it is the child; where none does, the cloud is told so.
#[test]
fn a_yes_counts_when_it_is_the_childs() {
    let cloud = Cloud::start();
    let directory = tempfile::tempdir().unwrap();
    let (finger, looked) = (directory.path().join("finger"), directory.path().join("looked"));
    let script = format!("f=$(cat '{}'); echo $1 > '{}'; exit $f", finger.display(), looked.display());
    let argv = format!(
        "[identity]\nkind = \"process\"\nargv = [\"/bin/sh\", \"-c\", \"{script}\", \"look\", \"{{child}}\"]"
    );
    let piggy = Piggy::new(&cloud, &[("[identity]\nkind = \"none\"", argv)]);
    let _agent = piggy.start();
    cloud.owe(prompt(1, Some(true)));
    asked(&piggy, 1);
    std::fs::write(&finger, "0").unwrap();
    let told = piggy.machine.json(&["prompt", "confirm"]);
    assert_eq!(told["identifying"], true);
    appears(&looked);
    // Somebody else's finger is no answer. The next look may come before the agent has heard of the end of the first.
    std::fs::write(&finger, "20").unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = piggy.machine.call(&["prompt", "confirm", &id(1).to_string()]);
        let list = piggy.machine.json(&["prompt", "list"]);
        if list["results"][0]["answer"] == "confirm" {
            break;
        }
        assert!(Instant::now() < deadline, "{output:?}");
    }
    assert_eq!(answered(&cloud).identified, Some(true));
    assert_eq!(std::fs::read_to_string(&looked).unwrap(), "mia\n");
    cloud.owe(prompt(2, None));
    asked(&piggy, 2);
    piggy.machine.json(&["prompt", "confirm", &id(2).to_string()]);
    assert_eq!(answered(&cloud).identified, None, "it was not asked to");

    let other = Cloud::start();
    let piggy = Piggy::new(&other, &[]);
    let _agent = piggy.start();
    other.owe(prompt(3, Some(true)));
    asked(&piggy, 3);
    piggy.machine.json(&["prompt", "confirm"]);
    assert_eq!(answered(&other).identified, Some(false), "nothing here can");
}

fn gpsd_table(address: &str) -> (&'static str, String) {
    ("[position]\nkind = \"none\"", format!("[position]\nkind = \"gpsd\"\naddress = \"{address}\""))
}

/// PC-3, PC-9: gpsd is asked for reports; one without a fix, or without a time, is none; a new gpsd is found again.
#[test]
fn gpsd_says_where_the_piggy_bank_is() {
    let cloud = Cloud::start();
    cloud.know_places(places(1, &cloud_key()));
    let gpsd = TcpListener::bind("127.0.0.1:0").unwrap();
    let piggy = Piggy::new(&cloud, &[gpsd_table(&gpsd.local_addr().unwrap().to_string())]);
    let _agent = piggy.start();
    cloud.owe(Down::PaymentCode(for_long(1, ShowCode::AtOnce)));
    let tpv = |mode: u8, time: &str| {
        format!("{{\"class\":\"TPV\",\"mode\":{mode}{time},\"lat\":52.52,\"lon\":13.4,\"eph\":17.1}}\r\n")
    };
    for (second, life) in [(0, "first"), (1, "second")] {
        let (mut stream, _) = gpsd.accept().unwrap();
        let mut wish = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut wish).unwrap();
        assert_eq!(wish, "?WATCH={\"enable\":true,\"json\":true};\n", "{life}");
        stream.write_all(b"{\"class\":\"VERSION\",\"release\":\"3.22\"}\r\n").unwrap();
        stream.write_all(tpv(1, ",\"time\":\"2026-11-22T10:00:00.000Z\"").as_bytes()).unwrap();
        stream.write_all(tpv(3, "").as_bytes()).unwrap();
        if second == 0 {
            assert_eq!(piggy.until(Some("position_unknown"))["position"], Value::Null);
            continue;
        }
        let time = format!(",\"time\":\"2026-11-22T10:00:0{second}.000Z\"");
        stream.write_all(tpv(3, &time).as_bytes()).unwrap();
        let list = piggy.list(|list| list["codes"][0]["shown"] == true);
        assert_eq!(list["position"]["accuracy_m"], 18);
        cloud.owe(prompt(2, None));
        asked(&piggy, 2);
        piggy.machine.json(&["prompt", "reject", &id(2).to_string()]);
        let position = answered(&cloud).position.unwrap();
        assert_eq!((position.latitude_e7, position.longitude_e7), (525_200_000, 134_000_000));
    }
}

#[test]
fn gpsd_of_another_machine_is_refused_with_the_way_out() {
    let cloud = Cloud::start();
    let piggy = Piggy::new(&cloud, &[gpsd_table("192.0.2.1:2947")]);
    let output = piggy.machine.command(&["run"]).arg("--profile").arg(&piggy.profile).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(4) && text.contains("remote = true"), "{text}");
}

/// PC-3, PC-9: the real gpsd, with a receiver that says again and again that it is at the school.
#[test]
#[ignore = "needs gpsd (gpsd, gpsd-clients, python3-gps)"]
fn a_real_gpsd_says_where_the_piggy_bank_is() {
    let cloud = Cloud::start();
    cloud.know_places(places(1, &cloud_key()));
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("school.nmea");
    let sentence = |body: String| {
        let sum = body.bytes().fold(0_u8, |sum, byte| sum ^ byte);
        format!("${body}*{sum:02X}\r\n")
    };
    let second = |second: u32| {
        let place = "5231.2000,N,01324.0000,E";
        sentence(format!("GPGGA,1000{second:02}.00,{place},1,08,0.9,34.0,M,45.0,M,,"))
            + &sentence("GPGSA,A,3,04,05,09,12,17,19,24,25,,,,,1.8,0.9,1.5".to_owned())
            + &sentence(format!("GPRMC,1000{second:02}.00,A,{place},0.0,0.0,221126,,,A"))
    };
    std::fs::write(&log, (0..60).map(second).collect::<String>()).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut gpsfake = Command::new("gpsfake");
    gpsfake.args(["-q", "-P", &port, "-c", "0.1"]).arg(&log);
    let gpsfake = gpsfake.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own: the gpsd that it starts does not end with it.
    let _gpsfake = Receiver(gpsfake.process_group(0).spawn().unwrap());
    let piggy = Piggy::new(&cloud, &[gpsd_table(&format!("127.0.0.1:{port}"))]);
    let _agent = piggy.start();
    cloud.owe(Down::PaymentCode(for_long(1, ShowCode::AtOnce)));
    let list = piggy.list(|list| list["codes"][0]["shown"] == true);
    assert!(list["position"]["accuracy_m"].as_u64().unwrap() < 100, "{list}");
}

struct Receiver(std::process::Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

fn accepted(key: schemas::ids::IdempotencyKey, number: u8) -> RequestAnswer {
    RequestAnswer { key, payment: Some(id(number)), refused: None, text: Text::new("2.50 EUR is yours.") }
}

/// Scans, and the cloud answers as it is told to.
fn scan(
    cloud: &Cloud,
    arguments: &[&str],
    answer: impl FnOnce(schemas::ids::IdempotencyKey) -> RequestAnswer,
) -> (PaymentScan, std::process::Output) {
    let machine = Machine::new(cloud, "piggy-bank");
    let mut command = machine.command(&[&["scan"], arguments].concat());
    let scanner = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let heard = cloud.until(|up| match up {
        Up::PaymentScan(scan) => Some(scan),
        _ => None,
    });
    cloud.owe(Down::RequestAnswer(answer(cloud.last_key())));
    (heard, scanner.wait_with_output().unwrap())
}

/// PC-10: accepted, refused with code and sentence, or no answer with the way to hand in the same scan again.
#[test]
fn a_scan_is_accepted_refused_or_handed_in_again() {
    let cloud = Cloud::start();
    let (heard, output) =
        scan(&cloud, &["--text", "FQ1:6BF+70790", "--amount", "2.50 EUR"], |key| accepted(key, 1));
    assert_eq!((heard.code.as_str(), heard.amount), ("FQ1:6BF+70790", Some("2.50 EUR".parse().unwrap())));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains(&format!("ACCEPTED  {}", id(1))), "{text}");
    assert!(text.contains("2.50 EUR is yours."), "{text}");

    let refusal = |key| RequestAnswer {
        key,
        payment: None,
        refused: Some("code_used".parse().unwrap()),
        text: Text::new("This code was paid with before."),
    };
    let (_, output) = scan(&cloud, &["--text", "FQ1:6BF+70790", "--json"], refusal);
    let failure: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((failure["error"].as_str(), output.status.code()), (Some("code_used"), Some(6)));
    assert_eq!(failure["text"], "This code was paid with before.");

    // Nobody answers: the same scan again is the same request.
    let machine = Machine::new(&cloud, "piggy-bank");
    let silent = machine.call(&["scan", "--text", "FQ1:6BF+70790", "--wait-s", "1"]);
    let text = String::from_utf8(silent.stderr).unwrap();
    assert_eq!(silent.status.code(), Some(5), "{text}");
    let (_, again) = text.trim().rsplit_once("--key ").expect("the way to do it again");
    let (key, scanned_at) = again.split_once(" --scanned-at ").unwrap();
    let first = cloud.until(|up| match up {
        Up::PaymentScan(scan) => Some(scan),
        _ => None,
    });
    let arguments = ["--text", "FQ1:6BF+70790", "--key", key, "--scanned-at", scanned_at, "--json"];
    let (second, output) = scan(&cloud, &arguments, |key| accepted(key, 3));
    assert_eq!((second, cloud.last_key().to_string()), (first, key.to_owned()));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&value["accepted"], value["payment"].as_str()),
        (&true.into(), Some(id(3).to_string().as_str()))
    );

    for (arguments, expected) in [
        (&["scan", "--text", ""][..], "this is no code"),
        (&["scan", "--image", "/no/such.png"], "can't be read"),
        (&["scan", "--text", "x", "--key", key], "--scanned-at"),
        (&["scan", "--text", "x", "--broker", "192.0.2.1:1883"], "loopback only"),
    ] {
        let output = machine.call(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(expected), "{arguments:?}: {text}");
    }
}

/// PC-10: a scan with the identity of an agent that runs would cut that one off. Another's identity does not.
#[test]
fn a_scan_leaves_a_running_agent_alone() {
    let cloud = Cloud::start();
    cloud.know_places(places(1, &cloud_key()));
    let piggy = Piggy::new(&cloud, &[]);
    let _agent = piggy.start();
    piggy.list(|list| list["places"]["version"] == 1);
    let arguments = ["scan", "--text", "FQ1:6BF+70790", "--wait-s", "1", "--json"];
    for (who, error) in [(None, "agent_running"), (Some("acme/till"), "no_answer")] {
        let mut scan = piggy.machine.command(&arguments);
        who.iter().for_each(|who| _ = scan.env("FARTHING_PRINCIPAL", who));
        let output = scan.output().unwrap();
        let failure: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(failure["error"], error, "{failure}");
    }
    assert_eq!(piggy.machine.json(&["status"])["connected"], true);
}
