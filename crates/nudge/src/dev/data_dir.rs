//! The demo's data directory: who may use it, and what may be deleted from it.

use std::{
    fs::{self, File, TryLockError},
    io::{ErrorKind, Read, Seek, Write},
    path::{Path, PathBuf},
};

use nudge_runtime::private;

use super::tokens;
use crate::{client::Service, failure::Failure, permissions::Keys};

/// Locked while a `nudge dev` runs. Its presence also marks the directory as the demo's own.
const LOCK_FILE: &str = "nudge-dev.lock";
/// Names the database that the streams belong to: see [`DataDir::check_belongs_to`].
const OWNER_FILE: &str = "nudge-dev.database";
/// Stands for the SQLite files in the directory itself. It is never written: a used directory of this kind
/// has no [`OWNER_FILE`].
pub(crate) const SQLITE: &str = "SQLite";
const NATS_DIRECTORY: &str = "nats";
const LOG_DIRECTORY: &str = "logs";
/// Who may do what at NATS, with a secret key for each service.
const KEYS_DIRECTORY: &str = "nats-keys";
/// What NATS creates in its directory.
const NATS_ENTRIES: &[&str] = &["jetstream"];
/// Suffixes of the files that SQLite creates for one database.
const DATABASE_SUFFIXES: &[&str] = &["", "-wal", "-shm", "-journal"];

/// The data directory, locked for as long as this value lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    lock: File,
}

impl DataDir {
    /// Creates the directory if necessary and locks it. With `fresh` it must hold nothing that the demo
    /// did not create; nothing is deleted yet.
    pub(crate) fn lock(path: &Path, fresh: bool) -> Result<Self, Failure> {
        let failed = |what: &str, error: std::io::Error| {
            Failure::failed(format!("cannot {what} {} (--data-dir): {error}", path.display()))
        };
        if fresh {
            check_all_ours(path)?;
        }
        private::make_directory(path)
            .map_err(|error| failed("create the data directory", error))?;
        // Absolute: the services get it, and may not share our working directory forever.
        let path = fs::canonicalize(path).map_err(|error| failed("find", error))?;
        let lock_file = path.join(LOCK_FILE);
        let found = fs::symlink_metadata(&lock_file);
        if found.as_ref().is_ok_and(|found| found.is_symlink()) {
            let line = format!("{} is a symbolic link: remove it", lock_file.display());
            return Err(Failure::failed(line));
        }
        if found.is_ok() {
            // Made by an earlier release, it may be open to everyone.
            private::close_directory(&path)
                .map_err(|error| failed("restrict the permissions of", error))?;
        }
        let mut lock = private::open_options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(lock_file)
            .map_err(|error| failed("write to", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                let holder = holder.trim();
                let line = format!("{} is in use by another `nudge dev`", path.display());
                let hint = "stop it, or use another --data-dir and --port-base";
                return Err(Failure::failed(format!("{line} (process {holder}): {hint}")));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", error)),
        }
        let noted = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        noted.map_err(|error| failed("write to", error))?;
        Ok(Self { path, lock })
    }

    /// Another handle on the same lock: it is held until both are gone.
    pub(crate) fn share_lock(&self) -> std::io::Result<File> {
        self.lock.try_clone()
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where NATS keeps its streams.
    pub(crate) fn nats(&self) -> PathBuf {
        self.path.join(NATS_DIRECTORY)
    }

    /// Who may do what at NATS.
    pub(crate) fn keys(&self) -> Keys {
        Keys::at(&self.path.join(KEYS_DIRECTORY))
    }

    /// Where the log files are.
    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join(LOG_DIRECTORY)
    }

    /// The database of a service, as `DATABASE_URL`.
    pub(crate) fn database_url(&self, service: &str) -> Result<String, Failure> {
        let path = self.path.join(format!("{service}.db"));
        let Some(path) = path.to_str() else {
            return Err(Failure::failed("the path of --data-dir is not UTF-8"));
        };
        // What would mean something in a URL.
        Ok(format!("sqlite:{}", path.replace('%', "%25").replace('?', "%3F")))
    }

    /// Refuses if the streams belong to another database than `database`: subscribers
    /// would ask the owner for entities that it never had. `None` is a database without data.
    pub(crate) fn check_belongs_to(&self, database: Option<&str>) -> Result<(), Failure> {
        let found = self.belongs_to()?;
        let other = match (found.as_deref(), database) {
            (None, _) => return Ok(()),
            (found, database) if found == database => return Ok(()),
            (Some(SQLITE), _) => "SQLite files, without --database-url",
            (_, Some(SQLITE)) => "a PostgreSQL database, with --database-url",
            (_, _) => "another PostgreSQL database, or that one before it was emptied",
        };
        let hint = "use that again, or give another --data-dir, or --fresh to start empty";
        let path = self.path.display();
        Err(Failure::failed(format!("{path} (--data-dir) was used with {other}: {hint}")))
    }

    fn belongs_to(&self) -> Result<Option<String>, Failure> {
        let path = self.path.join(OWNER_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let used = NATS_ENTRIES.iter().any(|name| self.nats().join(name).exists());
                Ok(used.then(|| SQLITE.to_owned()))
            }
            Err(error) => Err(Failure::failed(format!("cannot read {}: {error}", path.display()))),
        }
    }

    /// Records which database the streams belong to from now on.
    pub(crate) fn give_to(&self, database: &str) -> Result<(), Failure> {
        let path = self.path.join(OWNER_FILE);
        let file = private::open_options().create(true).truncate(true).write(true).open(&path);
        file.and_then(|mut file| writeln!(file, "{database}"))
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
    }

    /// Deletes what the demo created, except the lock, which is held.
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        check_all_ours(&self.path)?;
        for name in names(&self.path)?.into_iter().filter(|name| name != LOCK_FILE) {
            let path = self.path.join(name);
            // A link is removed and not followed: `symlink_metadata` sees the link itself.
            let directory = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            let removed =
                if directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| {
                Failure::failed(format!("cannot delete {}: {error}", path.display()))
            })?;
        }
        Ok(())
    }

    /// Creates the directories inside.
    pub(crate) fn prepare(&self) -> Result<(), Failure> {
        for directory in [self.nats(), self.logs()] {
            private::make_directory(&directory).map_err(|error| {
                Failure::failed(format!("cannot create {}: {error}", directory.display()))
            })?;
        }
        Ok(())
    }
}

/// Refuses if there is anything at `path` that the demo did not create.
fn check_all_ours(path: &Path) -> Result<(), Failure> {
    let found = names(path)?;
    let strange = |inside: &Path| {
        let hint = "--fresh deletes only directories that `nudge dev` created";
        let name = inside.display();
        Err(Failure::failed(format!(
            "{name} was not created by `nudge dev`; {hint}, so it is kept"
        )))
    };
    if let Some(name) = found.iter().find(|name| !is_ours(name)) {
        return strange(&path.join(name));
    }
    if !found.is_empty() && !found.iter().any(|name| name == LOCK_FILE) {
        return strange(path);
    }
    for (directory, ours) in [
        (NATS_DIRECTORY, (|name| NATS_ENTRIES.contains(&name)) as fn(&str) -> bool),
        (LOG_DIRECTORY, |name| name.ends_with(".log")),
        (KEYS_DIRECTORY, Keys::is_ours),
        (tokens::DIRECTORY, tokens::is_ours),
    ] {
        let directory = path.join(directory);
        if let Some(name) = names(&directory)?.iter().find(|name| !ours(name)) {
            return strange(&directory.join(name));
        }
    }
    Ok(())
}

fn is_ours(name: &str) -> bool {
    let of_database = |service: &Service| {
        let rest = name.strip_prefix(service.name()).and_then(|rest| rest.strip_prefix(".db"));
        rest.is_some_and(|suffix| DATABASE_SUFFIXES.contains(&suffix))
    };
    [LOCK_FILE, OWNER_FILE, NATS_DIRECTORY, LOG_DIRECTORY, KEYS_DIRECTORY, tokens::DIRECTORY]
        .contains(&name)
        || Service::ALL.iter().any(of_database)
}

/// The entries of a directory; none if it does not exist.
fn names(path: &Path) -> Result<Vec<String>, Failure> {
    let failed = |error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries.map(|entry| entry.map(name).map_err(failed)).collect()
}

#[cfg(test)]
mod tests;
