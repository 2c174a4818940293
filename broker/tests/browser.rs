//! MQTT.js in headless Chromium over secure WebSocket, from a page of another origin.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use broker::{Listener, ToCore};
use support::authority::Authority;
use support::{PATIENCE, World, token};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const WHO: &str = "acme/phone";
const PAGE: &str = include_str!("clients/browser.html");

/// MQTT.js as its authors publish it for browsers, from where npm keeps what is installed for everybody.
async fn mqtt_js() -> Vec<u8> {
    let root = Command::new("npm").args(["root", "--global"]).kill_on_drop(true).output();
    let root =
        timeout(PATIENCE, root).await.expect("npm hangs").expect("npm is missing: install nodejs and npm");
    let script = Path::new(String::from_utf8_lossy(&root.stdout).trim()).join("mqtt/dist/mqtt.min.js");
    std::fs::read(&script).unwrap_or_else(|error| {
        panic!("MQTT.js is missing: `npm install --global mqtt@5` ({}: {error})", script.display())
    })
}

/// Serves the page until it tells its result.
async fn result(listener: TcpListener, script: &[u8]) -> String {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let Some(path) = requested(&mut stream).await else { continue };
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let (kind, body) = match path {
            "/" => ("text/html", PAGE.as_bytes()),
            "/mqtt.js" => ("text/javascript", script),
            _ => ("text/plain", &b""[..]),
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        let _ = stream.write_all((head + "Connection: close\r\n\r\n").as_bytes()).await;
        let _ = stream.write_all(body).await;
        if path == "/result" {
            return query.to_owned();
        }
    }
}

/// The path of a GET. Browsers open connections in reserve, which say nothing: they are not waited for.
async fn requested(stream: &mut TcpStream) -> Option<String> {
    let mut lines = BufReader::new(stream).lines();
    let first = timeout(PATIENCE / 10, lines.next_line()).await.ok()?.ok()??;
    while !lines.next_line().await.ok()??.is_empty() {}
    first.split(' ').nth(1).map(str::to_owned)
}

fn browse(url: &str, profile: &Path, errors: File) -> Child {
    let mut chromium = Command::new("chromium");
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    chromium.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    chromium.args(["--disable-dev-shm-usage", "--no-proxy-server", "--enable-logging=stderr"]);
    // It does not know the authority of the test, and has no list of authorities that a test could add to.
    chromium.arg("--ignore-certificate-errors");
    chromium.arg(format!("--user-data-dir={}", profile.display())).arg(url);
    chromium.kill_on_drop(true).stdout(Stdio::null()).stderr(errors);
    chromium.spawn().expect("chromium is missing: install the package of this name")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs chromium"]
async fn mqtt_js_in_a_browser_works_in_both_versions() {
    let script = mqtt_js().await;
    let directory = tempfile::tempdir().unwrap();
    let errors = directory.path().join("chromium.log");
    let authority = Authority::new();
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::WebSocketTls { address, config: authority.tls_for_browsers() };
    let mut world = World::start_with(|config| config.listeners = vec![listener]).await;

    let pages = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = pages.local_addr().unwrap();
    let port = world.address().port();
    let url = format!("http://{origin}/?url=wss://127.0.0.1:{port}/mqtt&name={WHO}&token={}", token(WHO));
    let mut browser = browse(&url, &directory.path().join("profile"), File::create(&errors).unwrap());
    let told = timeout(PATIENCE * 3, result(pages, &script)).await;
    browser.kill().await.unwrap();
    let told = told.unwrap_or_else(|_| "the page does not tell its result".to_owned());
    let stderr = String::from_utf8_lossy(&std::fs::read(errors).unwrap()).into_owned();
    assert_eq!(told, "ok", "{:?}; chromium: {stderr}", world.broker.stats());
    assert_eq!(world.broker.stats().publishes_in, 2 * 201);
    for _ in 0..2 {
        world.until(|message| matches!(message, ToCore::Acknowledged { .. }).then_some(())).await;
    }
    assert_eq!(world.core.lock().unwrap().outbox_len(WHO), 0, "everything owed was acknowledged");
}
