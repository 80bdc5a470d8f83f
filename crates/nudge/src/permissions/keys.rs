//! A directory with the server's configuration, and a secret key (NKey seed) for each user.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use nkeys::KeyPair;
use nudge_runtime::private;

use super::{OPERATOR, Services, config};
use crate::failure::Failure;

/// The configuration.
const CONFIG_FILE: &str = "nats.conf";
/// Which services there are.
const SERVICES_FILE: &str = "services.json";
/// What ends the name of a file with a secret key.
const SEED_SUFFIX: &str = ".nkey";
/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    directory: PathBuf,
}

impl Keys {
    /// In this directory, which need not exist yet.
    pub(crate) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.join(CONFIG_FILE)
    }

    /// The file with a user's secret key.
    pub(crate) fn seed(&self, user: &str) -> PathBuf {
        self.directory.join(format!("{user}{SEED_SUFFIX}"))
    }

    /// The file with the operator's.
    pub(crate) fn operators_seed(&self) -> PathBuf {
        self.seed(OPERATOR)
    }

    /// Whether a file of this name is one of ours.
    pub(crate) fn is_ours(name: &str) -> bool {
        [CONFIG_FILE, SERVICES_FILE].contains(&name) || name.ends_with(SEED_SUFFIX)
    }

    /// The services of the last time.
    pub(crate) fn services(&self) -> Result<Services, Failure> {
        let path = self.directory.join(SERVICES_FILE);
        let wrong = |error: String| Failure::failed(format!("{}: {error}", path.display()));
        let Some(text) = read(&path).map_err(|error| wrong(error.to_string()))? else {
            return Ok(Services::default());
        };
        let earlier = || {
            let config = read(&self.config()).ok().flatten();
            let guests = config.is_some_and(|config| config.contains("no_auth_user"));
            Services::of_earlier(&text, guests)
        };
        let services: Services = match serde_json::from_str(&text) {
            Ok(services) => services,
            Err(error) => earlier().ok_or_else(|| wrong(error.to_string()))?,
        };
        services.check().map_err(wrong)?;
        Ok(services)
    }

    /// Writes everything. Keys that are there stay as they are.
    ///
    /// # Errors
    /// If a file cannot be read or written, or contains no key.
    pub(crate) fn write(&self, services: &Services) -> Result<(), Failure> {
        if services.is_empty() {
            return Err(Failure::Usage(
                "name at least one service, with --owner or --subscriber".into(),
            ));
        }
        let cannot =
            |path: &Path, error: io::Error| Failure::failed(format!("{}: {error}", path.display()));
        private::make_directory(&self.directory).map_err(|error| cannot(&self.directory, error))?;
        let mut public = std::collections::BTreeMap::new();
        for user in services.names().chain([OPERATOR]) {
            let path = self.seed(user);
            let key = key_at(&path).map_err(|error| cannot(&path, error))?;
            public.insert(user, key.public_key());
        }
        let config = config::text(services, |user| public[user].clone());
        let listed = serde_json::to_string_pretty(services).expect("names are JSON") + "\n";
        for (name, text) in [(SERVICES_FILE, listed), (CONFIG_FILE, config)] {
            let path = self.directory.join(name);
            replace(&path, &text).map_err(|error| cannot(&path, error))?;
        }
        Ok(())
    }
}

/// The key in this file, which is made where there is none.
fn key_at(path: &Path) -> io::Result<KeyPair> {
    if let Some(seed) = read(path)? {
        let key = KeyPair::from_seed(seed.trim());
        return key.map_err(|_| io::Error::other("contains no NKey seed"));
    }
    let key = KeyPair::new_user();
    let seed = key.seed().map_err(io::Error::other)?;
    let file = private::open_options().write(true).create_new(true).open(path);
    writeln!(file?, "{seed}")?;
    Ok(key)
}

/// The text of a file, if there is one.
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(found) if found.len() > MAX_BYTES => {
            Err(io::Error::other(format!("must be at most {MAX_BYTES} bytes")))
        }
        Ok(_) => fs::read_to_string(path).map(Some),
    }
}

/// Replaces a file at once: a server that reads it sees the old text or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let file = private::open_options().write(true).create(true).truncate(true).open(&new);
    file?.write_all(text.as_bytes())?;
    fs::rename(new, path)
}
