//! What a person writes into files and into the environment.

use std::cell::OnceCell;
use std::path::Path;

use cloud_core::config::{Config, Flags};
use edge_agent::config::Layer;
use edge_agent_device::Profile;

use super::input::Input;

thread_local! {
    static DIRECTORY: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

/// In memory where there is such a place: the disk's speed is not what is tested.
fn with_file<T>(name: &str, content: &[u8], use_it: impl FnOnce(&Path) -> T) -> T {
    DIRECTORY.with(|cell| {
        let made = || tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let directory = cell.get_or_init(made).path();
        let path = directory.join(name);
        std::fs::write(&path, content).unwrap();
        let result = use_it(&path);
        std::fs::remove_file(path).unwrap();
        result
    })
}

/// First byte: a file, or `NAME=value` lines of an environment. What is accepted has a usable journal, listens
/// nowhere in the clear, and shows every setting with its origin.
pub fn cloud_config(data: &[u8]) {
    let mut input = Input::new(data);
    let in_environment = input.byte() % 4 == 3;
    let content = input.rest();
    let loaded = if in_environment {
        let text = String::from_utf8_lossy(content);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        // Where other files of this machine would be read.
        let pairs = pairs.filter(|(name, _)| !matches!(*name, "FARTHING_CONFIG" | "FARTHING_DATA_DIR"));
        let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let data_dir = ("FARTHING_DATA_DIR".to_owned(), "/nowhere".to_owned());
        Config::load(&Flags::default(), pairs.into_iter().chain([data_dir]))
    } else {
        with_file("farthing.toml", content, |path| {
            Config::load(&Flags { config: Some(path.to_owned()), ..Flags::default() }, [])
        })
    };
    match loaded {
        Ok(loaded) => {
            assert_eq!(loaded.config.journal_limits().validate(), Ok(()));
            for open in [loaded.config.listen_tcp, loaded.config.listen_http].into_iter().flatten() {
                assert!(open.ip().is_loopback(), "{open}");
            }
            assert!(loaded.show().iter().all(|line| !line.name.is_empty() && !line.origin.is_empty()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The file of an agent, and a device's profile.
pub fn agent_config(data: &[u8]) {
    let loaded = with_file("agent.toml", data, |path| {
        edge_agent::config::Config::load(path.parent().unwrap(), Layer::default())
    });
    match loaded {
        Ok(config) => {
            let token = config.values.token.as_deref().filter(|token| token.len() > 20);
            let shown = format!("{:?}", config.values.values());
            assert!(token.is_none_or(|token| !shown.contains(token)), "a token is shown");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(text) = std::str::from_utf8(data) {
        match Profile::parse(text) {
            Ok(profile) => assert!(!profile.name.is_empty()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
