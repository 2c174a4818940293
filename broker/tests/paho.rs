//! paho-mqtt, the client of Python programs, over every transport.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::path::Path;

use broker::session::CloseReason;
use broker::{Listener, ToCore};
use support::authority::Authority;
use support::{PATIENCE, World, token};
use tokio::process::Command;
use tokio::time::timeout;

const WHO: &str = "acme/chip-7";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/paho_client.py");

async fn run(arguments: &[&str]) {
    let client = Command::new("python3").arg(SCRIPT).args(arguments).kill_on_drop(true).output();
    let output = timeout(PATIENCE * 3, client).await.expect("the client hangs").unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs paho-mqtt"]
async fn paho_works_over_every_transport_in_both_versions() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let trusted = directory.path().join("authority.pem");
    std::fs::write(&trusted, authority.0.pem()).unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let mut world = World::start_with(|config| {
        config.listeners = vec![
            Listener::Tcp { address },
            Listener::Tls { address, config: authority.tls() },
            Listener::WebSocket { address },
            Listener::WebSocketTls { address, config: authority.tls() },
        ];
    })
    .await;
    let none = Path::new("-");
    let transports = [("tcp", none), ("tcp", &*trusted), ("websockets", none), ("websockets", &*trusted)];
    for (number, (transport, authority)) in transports.into_iter().enumerate() {
        let port = world.broker.addresses()[number].port().to_string();
        let authority = authority.to_str().unwrap();
        for version in ["4", "5"] {
            run(&["localhost", &port, transport, authority, version, WHO, &token(WHO)]).await;
            let closed = |message| match message {
                ToCore::Closed { reason, .. } => Some(reason),
                _ => None,
            };
            assert_eq!(world.until(closed).await, CloseReason::PeerDisconnected, "{transport} {version}");
        }
        run(&["localhost", &port, transport, authority, "5", WHO, "wrong"]).await;
        while world.broker.stats().connections_open > 0 {
            tokio::task::yield_now().await;
        }
        while world.told.try_recv().is_ok() {}
    }
    assert_eq!(world.broker.stats().publishes_in, 8 * 101);
    assert_eq!(world.core.lock().unwrap().outbox_len(WHO), 0, "everything owed was acknowledged");
}
