//! What endpoints refused before, by endpoint and model: `learned.json` in the home.
//!
//! It saves a refused request at the start of each process, and nothing else: the file is a cache that anybody may delete at
//! any time, what is wrong with it is no error, and where two processes write it at once one of them has to learn again.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// How many endpoints and models are remembered; more than that is no cache but a leak.
const ENTRIES_MAX: usize = 200;

type Entries = BTreeMap<String, Vec<String>>;

/// The file.
pub(crate) struct Learned {
    path: PathBuf,
}

impl Learned {
    /// The file in `home`, which need not be there.
    pub(crate) fn new(home: &Path) -> Self {
        Self { path: home.join("learned.json") }
    }

    /// What `model` at `url` refused.
    pub(crate) fn of(&self, url: &str, model: &str) -> Vec<String> {
        self.read().remove(&key(url, model)).unwrap_or_default()
    }

    /// Remembers it. Makes no home for it.
    pub(crate) fn remember(&self, url: &str, model: &str, learned: Vec<String>) {
        let mut entries = self.read();
        if entries.len() >= ENTRIES_MAX {
            entries.clear();
        }
        entries.insert(key(url, model), learned);
        // Without the file it is learned again.
        let _ = self.write(&entries);
    }

    fn read(&self) -> Entries {
        fs::read(&self.path).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    /// Replaces the file whole, so that no reader sees half of it.
    fn write(&self, entries: &Entries) -> std::io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec_pretty(entries)?)?;
        file.persist(&self.path)?;
        Ok(())
    }
}

/// A URL may hold a user and a password, which are written nowhere.
fn key(url: &str, model: &str) -> String {
    let bare = match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}/{}", path.split(['?', '#']).next().unwrap_or_default())
        }
        None => String::new(),
    };
    format!("{} {model}", bare.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_there_for_the_next_process_and_a_broken_file_is_nothing() {
        let home = tempfile::tempdir().expect("temp dir");
        Learned::new(home.path()).remember("https://me:pass@x.example/v1/?a=b", "m", vec!["temperature".to_owned()]);
        assert_eq!(Learned::new(home.path()).of("https://x.example/v1", "m"), ["temperature"]);
        assert!(Learned::new(home.path()).of("https://x.example/v1", "other").is_empty());
        let path = home.path().join("learned.json");
        assert!(!fs::read_to_string(&path).expect("there").contains("pass"));
        fs::write(&path, "{broken").expect("written");
        assert!(Learned::new(home.path()).of("https://x.example/v1", "m").is_empty());
    }

    #[test]
    fn no_home_is_made_for_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let home = dir.path().join("home");
        Learned::new(&home).remember("https://x.example", "m", Vec::new());
        assert!(!home.exists());
    }
}
