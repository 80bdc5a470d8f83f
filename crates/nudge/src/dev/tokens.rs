//! The tokens of `nudge dev --auth`: a key of its own, and for each program a token with just the scopes that it needs.
//! They are short-lived, and written anew long before they expire; each program reads its file again when it changes.
//!
//! | file in the data directory's `auth` | for |
//! |---|---|
//! | `signing.key` | `nudge token`; made once |
//! | `jwks.json` | every program, to check tokens with |
//! | `SERVICE.token` | a service, to call others |
//! | `operator.token` | the command line: it has every scope |
//! | `guest.token`, `guest.env` | a service of one's own that takes part |

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use nudge_protocol::Timestamp;
use nudge_runtime::{
    auth::{
        Admission, AuthArgs, Credentials, Scope,
        sign::{Grant, SigningKey},
    },
    clock, private,
    problem::chain,
    tls::TlsArgs,
};

use tokio_util::task::AbortOnDropHandle;

use super::{data_dir::DataDir, talk::Talk, welcome::WaysIn};
use crate::{client::Service, console::Login, failure::Failure};

/// Where they are, in the data directory.
pub(crate) const DIRECTORY: &str = "auth";
/// The key that signs them, in that directory.
pub(crate) const KEY_FILE: &str = "signing.key";
/// Whose they are, and whom they are for: the defaults of `nudge token`.
pub(crate) const NAME: &str = "nudge";
const JWKS_FILE: &str = "jwks.json";
const OPERATOR: &str = "operator";
const GUEST: &str = "guest";
const GUEST_ENV_FILE: &str = "guest.env";
/// How long a token is good.
const LIFE: Duration = Duration::from_secs(3_600);
/// Age at which it is replaced: whoever reads it may be slow to.
const RENEW_AFTER: Duration = Duration::from_secs(900);
/// Interval between looks at that age. The clock on the wall decides, since a machine that slept has no other that went on.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The key, and the files.
#[derive(Debug)]
pub(super) struct Tokens {
    directory: PathBuf,
    key: SigningKey,
}

/// Who may do what in the demo; by default, everybody everything.
#[derive(Default)]
pub(super) struct Access {
    /// Whom the console answers.
    pub(super) login: Login,
    /// For what the demo itself does at its services.
    pub(super) operator: Credentials,
    /// What people are told; nothing if nobody is asked for a token.
    pub(super) ways_in: Option<WaysIn>,
    _keep: Option<AbortOnDropHandle<()>>,
}

impl Tokens {
    /// Lets in whoever has a token at the demo's console on this port, and keeps the tokens good meanwhile.
    pub(super) fn access(self, port: u16, talk: &Talk) -> Result<Access, Failure> {
        let file = Credentials::in_files(Some(&self.operator_file()), &TlsArgs::default());
        let operator = file.map_err(|error| Failure::failed(chain(&error)))?;
        let login = Login::asking(self.admission()?, port);
        let ways_in = Some(WaysIn::of(&self));
        let keep = tokio::spawn(self.keep(talk.clone()));
        Ok(Access { login, operator, ways_in, _keep: Some(AbortOnDropHandle::new(keep)) })
    }

    /// Writes all files; the key only if there is none.
    pub(super) fn prepare(data: &DataDir) -> Result<Self, Failure> {
        let directory = data.path().join(DIRECTORY);
        if directory.to_str().is_none() {
            return Err(Failure::failed("the path of --data-dir is not UTF-8"));
        }
        let failed = |path: &Path, error| {
            Failure::failed(format!("{}: {error}; --fresh makes a new one", path.display()))
        };
        private::make_directory(&directory).map_err(|error| failed(&directory, error))?;
        let key_file = directory.join(KEY_FILE);
        let key = SigningKey::at(&key_file).map_err(|error| failed(&key_file, error))?;
        let tokens = Self { directory, key };
        let write = || {
            tokens.write(JWKS_FILE, &tokens.key.jwks().to_string())?;
            let settings = tokens.settings(GUEST).into_iter();
            let lines: String =
                settings.map(|(name, value)| format!("{name}={}\n", quoted(&value))).collect();
            tokens.write(GUEST_ENV_FILE, &lines)?;
            tokens.renew()
        };
        write().map_err(|error| failed(&tokens.directory, error))?;
        Ok(tokens)
    }

    /// The settings of a program that asks others for tokens, and has the token of this name.
    pub(super) fn settings(&self, name: &str) -> Vec<(&'static str, String)> {
        let path = |path: PathBuf| path.display().to_string();
        vec![
            ("AUTH_ISSUER", NAME.to_owned()),
            ("AUTH_AUDIENCE", NAME.to_owned()),
            ("AUTH_JWKS", path(self.directory.join(JWKS_FILE))),
            ("AUTH_TOKEN_FILE", path(self.file_of(name))),
        ]
    }

    /// Who is let in by the console.
    fn admission(&self) -> Result<Admission, Failure> {
        let jwks = self.directory.join(JWKS_FILE).display().to_string();
        let args = AuthArgs {
            auth_issuer: Some(NAME.to_owned()),
            auth_audience: NAME.to_owned(),
            auth_jwks: Some(jwks),
            auth_clock_skew: 0,
            ..AuthArgs::default()
        };
        Admission::of(&args).map_err(|error| Failure::failed(chain(&error)))
    }

    /// The file with the token that has every scope.
    pub(super) fn operator_file(&self) -> PathBuf {
        self.file_of(OPERATOR)
    }

    /// The key that signs.
    pub(super) fn key_file(&self) -> PathBuf {
        self.directory.join(KEY_FILE)
    }

    /// The settings of services that take part and that others start.
    pub(super) fn guest_file(&self) -> PathBuf {
        self.directory.join(GUEST_ENV_FILE)
    }

    /// Keeps the tokens good for as long as it runs.
    async fn keep(self, talk: Talk) {
        let mut renewed = clock::now();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let now = clock::now();
            if !is_due(renewed, now) {
                continue;
            }
            match self.renew() {
                Ok(()) => renewed = now,
                Err(error) => {
                    let directory = self.directory.display();
                    talk.say(&format!("dev: cannot write tokens to {directory}: {error}"));
                }
            }
        }
    }

    fn renew(&self) -> io::Result<()> {
        let of = |service: &Service| (service.name(), scopes(*service));
        let services = Service::ALL.iter().map(of).filter(|(_, scopes)| !scopes.is_empty());
        let others = [(OPERATOR, Scope::ALL.to_vec()), (GUEST, vec![Scope::Sync, Scope::Read])];
        for (name, scopes) in services.chain(others) {
            let grant = Grant { subject: name.to_owned(), scopes, only: None };
            let token = self.key.token(NAME, NAME, &grant, LIFE);
            self.write(&format!("{name}.token"), &token)?;
        }
        Ok(())
    }

    fn file_of(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.token"))
    }

    /// Whoever reads the file finds all of the old text or all of the new one.
    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let (path, new) = (self.directory.join(name), self.directory.join(format!("{name}.new")));
        let mut file =
            private::open_options().create(true).truncate(true).write(true).open(&new)?;
        writeln!(file, "{text}")?;
        fs::rename(new, path)
    }
}

/// Whether this is a file of ours.
pub(super) fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(".new").unwrap_or(name);
    [KEY_FILE, JWKS_FILE, GUEST_ENV_FILE].contains(&name) || name.ends_with(".token")
}

/// A clock that was set back says nothing of a token's age.
fn is_due(renewed: Timestamp, now: Timestamp) -> bool {
    !(0.0..RENEW_AFTER.as_secs_f64()).contains(&now.seconds_since(renewed))
}

/// What a service asks of others: owners for their entities, the rest for what they are for.
fn scopes(service: Service) -> Vec<Scope> {
    let asked = |owner: bool| service.asks().iter().any(|(_, one)| one.owns().is_some() == owner);
    let sync = asked(true).then_some(Scope::Sync);
    sync.into_iter().chain(asked(false).then_some(Scope::Read)).collect()
}

/// For a shell, and for programs that read such files without one.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn prepared() -> (tempfile::TempDir, DataDir, Tokens) {
        let temporary = tempfile::tempdir().unwrap();
        let data = DataDir::lock(temporary.path(), false).unwrap();
        let tokens = Tokens::prepare(&data).unwrap();
        (temporary, data, tokens)
    }

    #[test]
    fn a_service_may_do_what_it_asks_for_and_nothing_else() {
        assert_eq!(scopes(Service::StoreInfo), []);
        assert_eq!(scopes(Service::Review), [Scope::Sync]);
        assert_eq!(scopes(Service::Storefront), [Scope::Sync, Scope::Read]);
    }

    #[tokio::test]
    async fn each_token_is_good_for_its_scopes_and_nobody_else_reads_it() {
        let (_temporary, _data, tokens) = prepared();
        let admission = tokens.admission().unwrap();
        let read = |name: &str| fs::read_to_string(tokens.file_of(name)).unwrap();
        let has = async |name: &str, scope| admission.check(read(name).trim(), scope).await.is_ok();
        assert!(has("search", Scope::Sync).await && !has("search", Scope::Read).await);
        assert!(has(GUEST, Scope::Sync).await && !has(GUEST, Scope::Write).await);
        for scope in Scope::ALL {
            assert!(has(OPERATOR, scope).await, "{scope}");
        }
        for file in fs::read_dir(&tokens.directory).unwrap().map(Result::unwrap) {
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", file.file_name());
            assert!(is_ours(file.file_name().to_str().unwrap()), "{:?}", file.file_name());
        }
    }

    #[test]
    fn the_key_stays_and_tokens_are_renewed_long_before_they_expire() {
        let (_temporary, data, tokens) = prepared();
        let key = fs::read(tokens.key_file()).unwrap();
        Tokens::prepare(&data).unwrap();
        assert_eq!(fs::read(tokens.key_file()).unwrap(), key);
        let at = |seconds: u64| Timestamp::from_unix_micros(1_000_000 * seconds as i64);
        assert!(!is_due(at(5_000), at(5_000 + RENEW_AFTER.as_secs() - 1)));
        assert!(is_due(at(5_000), at(5_000 + RENEW_AFTER.as_secs())));
        assert!(is_due(at(5_000), at(4_999)), "the clock was set back");
        assert!(LIFE > 2 * (RENEW_AFTER + LOOK_INTERVAL));
    }

    #[test]
    fn a_key_that_is_none_is_told() {
        let (_temporary, data, tokens) = prepared();
        fs::write(tokens.key_file(), "half of it").unwrap();
        let refused = Tokens::prepare(&data).unwrap_err().to_string();
        assert!(refused.contains(KEY_FILE) && refused.contains("--fresh"), "{refused}");
    }
}
