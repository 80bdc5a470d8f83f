//! Private files: data and logs contain what people have written.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

/// From now on, nobody else can read files that this process and its children create. For the start of a
/// program.
pub fn keep_new_files() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Opens a file that nobody else can read, and that is not a symbolic link: somebody who can place one there could have
/// us write to any of our files.
pub fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// The text of a file that holds a secret of at most so many bytes, without the trailing line break that editors add.
///
/// # Errors
/// If it cannot be read, is empty or longer.
pub(crate) fn read_secret(path: &Path, max_bytes: u64) -> io::Result<String> {
    if fs::metadata(path)?.len() > max_bytes {
        return Err(io::Error::other(format!("must be at most {max_bytes} bytes")));
    }
    let text = fs::read_to_string(path)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(io::Error::other("is empty")),
        text => Ok(text.to_owned()),
    }
}

/// Creates a directory, and its parents, that nobody else can read. An existing one stays as it is.
///
/// # Errors
/// As [`DirBuilder::create`].
pub fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a directory unreadable for everyone else.
///
/// # Errors
/// If it belongs to somebody else.
pub fn close_directory(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        let mut options = open_options();
        options.create(true).append(true);
        options.open(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::os::unix::fs::symlink(&file, &link).unwrap();
        options.open(&link).unwrap_err();
    }
}
