//! Settings that hold a secret, such as a URL with a password. Anybody on the machine can read a flag, and whatever
//! starts a program sees its environment, so each such setting has a twin that names a file: `DATABASE_URL` or
//! `DATABASE_URL_FILE`, not both. Neither is ever shown: not by `--help`, `Debug`, an error or a log.
//!
//! ```
//! use clap::Parser;
//! use nudge_runtime::secret::{self, Secret};
//!
//! #[derive(Debug, Parser)]
//! struct Settings {
//!     #[arg(long, hide_env_values = true, value_parser = secret::given(secret::any))]
//!     key: Option<Secret>,
//!     #[arg(long, conflicts_with = "key", value_parser = secret::in_file(secret::any))]
//!     key_file: Option<Secret>,
//! }
//!
//! let settings = Settings::parse_from(["program", "--key", "hunter2"]);
//! assert_eq!(settings.key.as_ref().unwrap().expose(), "hunter2");
//! assert!(!format!("{settings:?}").contains("hunter2"));
//! ```

use std::{fmt, path::Path};

use crate::private::read_secret;

/// Largest file that holds a secret, in bytes.
pub const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// This text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for where it is used.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// What is wrong with a text. Must not repeat it.
type Check = fn(&str) -> Result<String, String>;

/// The check of a secret that is checked when it is used.
///
/// # Errors
/// None.
pub fn any(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// For `value_parser`: the secret itself.
pub fn given(check: Check) -> impl Fn(&str) -> Result<Secret, String> + Clone {
    move |text| check(text).map(Secret)
}

/// For `value_parser`: the secret in this file, of at most [`MAX_SECRET_BYTES`], without the line break at its end.
pub fn in_file(check: Check) -> impl Fn(&str) -> Result<Secret, String> + Clone {
    move |path| {
        let text = read_secret(Path::new(path), MAX_SECRET_BYTES);
        check(&text.map_err(|error| error.to_string())?).map(Secret)
    }
}
