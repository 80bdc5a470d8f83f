//! Files that others replace while a program runs, as Kubernetes and certificate managers do.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

/// What some files say together, read again once one of them has changed. Asking costs a microsecond or two for each.
pub(crate) struct Reread<T> {
    files: Vec<PathBuf>,
    read: Box<dyn Fn() -> io::Result<T> + Send + Sync>,
    held: Mutex<(Vec<Stamp>, T)>,
}

/// What tells one content of a file from another: which file it is, when it was written, and how long it is.
type Stamp = (u64, i64, i64, u64);

impl<T: Clone> Reread<T> {
    /// Reads them now.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn new(
        files: Vec<PathBuf>,
        read: impl Fn() -> io::Result<T> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        // Before they are read: what is written meanwhile is read again.
        let stamps = stamps(&files)?;
        let held = Mutex::new((stamps, read()?));
        Ok(Self { files, read: Box::new(read), held })
    }

    /// What they say. Files that cannot be used may be about to be replaced: until then, it is what they said before.
    pub(crate) fn get(&self) -> T {
        let mut held = self.held.lock();
        let now = stamps(&self.files).and_then(|now| match now == held.0 {
            true => Ok(None),
            false => (self.read)().map(|new| Some((now, new))),
        });
        match now {
            Ok(Some(new)) => *held = new,
            Ok(None) => {}
            Err(error) => {
                let files = format!("{self:?}");
                tracing::warn!(files, %error, "files cannot be read again: what they said before is used");
            }
        }
        held.1.clone()
    }
}

impl<T> fmt::Debug for Reread<T> {
    /// Their names. What they say may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.files).finish()
    }
}

fn stamps(files: &[PathBuf]) -> io::Result<Vec<Stamp>> {
    let stamp = |file: &PathBuf| {
        let about = fs::metadata(file).map_err(|error| named(file, &error))?;
        Ok((about.ino(), about.mtime(), about.mtime_nsec(), about.size()))
    };
    files.iter().map(stamp).collect()
}

/// An error that says which file it is about.
pub(crate) fn named(file: &Path, error: &dyn fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_read_again_and_what_is_broken_leaves_the_old() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        fs::write(&first, "1").unwrap();
        fs::write(&second, "2").unwrap();
        let files = vec![first.clone(), second.clone()];
        let read = {
            let files = files.clone();
            move || -> io::Result<u32> {
                let number =
                    |file| fs::read_to_string(file)?.parse::<u32>().map_err(io::Error::other);
                files.iter().map(number).sum()
            }
        };
        let sum = Reread::new(files, read).unwrap();
        assert_eq!(sum.get(), 3);
        for (text, expected) in [("30", 31), ("not a number", 31), ("4", 5)] {
            fs::write(&second, text).unwrap();
            assert_eq!(sum.get(), expected, "{text}");
        }
        fs::remove_file(&first).unwrap();
        assert_eq!(sum.get(), 5);
        fs::write(&first, "2").unwrap();
        assert_eq!(sum.get(), 6);
    }
}
