//! A real `cloud-core` process on ephemeral ports.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part, in tests only"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// The binary under test, without settings of this environment.
pub fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloud-core"));
    for (name, _) in std::env::vars() {
        if name.starts_with("FARTHING_") {
            command.env_remove(name);
        }
    }
    command.env("FARTHING_DATA_DIR", data_dir).env("FARTHING_JOURNAL_SEGMENT_BYTES", "1048576");
    command.stdin(Stdio::null());
    command
}

/// The same, to serve on ephemeral ports.
pub fn serve_command(data_dir: &Path) -> Command {
    let mut command = command(data_dir);
    for setting in ["TCP", "TLS", "ENROLMENT", "HTTP"] {
        command.env(format!("FARTHING_LISTEN_{setting}"), "127.0.0.1:0");
    }
    command
}

/// A running core; killed when dropped.
pub struct Core {
    child: Child,
    lines: Vec<String>,
    log: Option<JoinHandle<()>>,
    logged: Arc<Mutex<String>>,
    data_dir: std::path::PathBuf,
}

impl Core {
    pub fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, serve_command(data_dir))
    }

    /// Returns when it is ready, or has ended.
    pub fn start_with(data_dir: &Path, mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let logged = Arc::new(Mutex::new(String::new()));
        let log = std::thread::spawn({
            let logged = Arc::clone(&logged);
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    *logged.lock().unwrap() += &(line + "\n");
                }
            }
        });
        let mut lines = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let is_ready = line == "ready";
            lines.push(line);
            if is_ready {
                break;
            }
        }
        Self { child, lines, log: Some(log), logged, data_dir: data_dir.to_owned() }
    }

    pub fn is_ready(&self) -> bool {
        self.lines.last().is_some_and(|line| line == "ready")
    }

    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Of a line such as `mqtt tcp://127.0.0.1:1883`.
    pub fn address(&self, prefix: &str) -> SocketAddr {
        let line = self.lines.iter().find_map(|line| line.strip_prefix(prefix));
        line.unwrap_or_else(|| panic!("no line {prefix} in {:?}", self.lines)).parse().unwrap()
    }

    /// Status line, headers and body of a GET.
    pub fn http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address("http http://")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Runs `cloud-core admin ...`.
    pub fn admin(&self, arguments: &[&str]) -> Output {
        command(&self.data_dir).arg("admin").args(arguments).output().unwrap()
    }

    /// The same, and it must succeed.
    pub fn admin_ok(&self, arguments: &[&str]) -> String {
        let output = self.admin(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    /// Until the log says this so many times.
    pub fn wait_for_log(&self, wanted: &str, times: usize) {
        for _ in 0..2_000 {
            if self.logged.lock().unwrap().matches(wanted).count() >= times {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the log does not say `{wanted}` {times} times: {}", self.logged.lock().unwrap());
    }

    /// Waits for its end; gives the log too.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.log.take().unwrap().join().unwrap();
        let log = self.logged.lock().unwrap().clone();
        (status, log)
    }

    /// Ends it in good order.
    pub fn stop(self) -> String {
        self.signal("TERM");
        let (status, log) = self.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        log
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
