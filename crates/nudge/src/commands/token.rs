//! `nudge token`: tokens for services that ask for one, signed with a key of one's own.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use nudge_runtime::{
    auth::{
        Scope,
        sign::{Grant, SigningKey},
    },
    private,
};
use serde_json::json;

use crate::{dev::tokens, failure::Failure, output};

/// Longest life of a token, in hours: a year.
const MAX_HOURS: u64 = 24 * 366;

const AFTER_HELP: &str = "\
For trying things, and for a few machines. Where people log in, an issuer such as Keycloak makes the tokens.

Examples:
  nudge token --key signing.key --jwks > jwks.json        the public half, for AUTH_JWKS of every service
  nudge token --key signing.key --subject search --scope sync > search.token
  nudge token --key signing.key --subject kim --scope read,write --only stores/42 > kim.token
  nudge --token-file operator.token status                send one
  nudge token --subject kim --scope read,observe          for `nudge dev --auth` in this directory

Scopes: read, write, sync (callbacks), observe (status, metrics), admin (pause, replay, resync).
docs/security.md says which route needs which.";

/// Arguments of `nudge token`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct TokenArgs {
    /// File with the key that signs; one that does not exist is made. Without it, the key of `nudge dev --auth`
    #[arg(long, env = "NUDGE_SIGNING_KEY", value_name = "PATH")]
    key: Option<PathBuf>,
    /// The data directory of that `nudge dev`
    #[arg(long, env = "NUDGE_DATA_DIR", value_name = "DIR", default_value = ".nudge")]
    data_dir: PathBuf,
    /// Print the key set (JWKS) that services check tokens with, and no token
    #[arg(long, conflicts_with_all = ["subject", "scopes", "only", "hours"])]
    jwks: bool,
    /// Who has it
    #[arg(long, value_name = "NAME", required_unless_present = "jwks")]
    subject: Option<String>,
    /// What it allows, separated by commas
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', value_parser = scope, required_unless_present = "jwks")]
    scopes: Vec<Scope>,
    /// All that it may change: paths such as stores/42. Can be given several times
    #[arg(long, value_name = "PATH")]
    only: Vec<String>,
    /// How long it is good
    #[arg(long, value_name = "HOURS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MAX_HOURS))]
    hours: u64,
    /// Its issuer: AUTH_ISSUER of the services
    #[arg(long, env = "AUTH_ISSUER", value_name = "URL", default_value = "nudge")]
    issuer: String,
    /// Its audience: AUTH_AUDIENCE of the services
    #[arg(long, env = "AUTH_AUDIENCE", value_name = "NAME", default_value = "nudge")]
    audience: String,
}

fn scope(text: &str) -> Result<Scope, String> {
    let names = Scope::ALL.map(Scope::name).join(", ");
    Scope::named(text.trim()).ok_or_else(|| format!("must be one of {names}"))
}

impl TokenArgs {
    fn key_file(&self) -> Result<PathBuf, Failure> {
        if let Some(key) = &self.key {
            return Ok(key.clone());
        }
        let key = self.data_dir.join(tokens::DIRECTORY).join(tokens::KEY_FILE);
        let missing = || {
            let key = key.display();
            Failure::Usage(format!(
                "--key (NUDGE_SIGNING_KEY): must be set: {key}, which `nudge dev --auth` makes, is not there"
            ))
        };
        key.exists().then(|| key.clone()).ok_or_else(missing)
    }
}

/// Prints a token, or the key set.
pub(crate) fn run(args: &TokenArgs, json: bool) -> Result<(), Failure> {
    private::keep_new_files();
    let path = args.key_file()?;
    let failed = |error| Failure::failed(format!("{}: {error}", path.display()));
    let key = SigningKey::at(&path).map_err(failed)?;
    if args.jwks {
        return output::json(&key.jwks());
    }
    let grant = Grant {
        subject: args.subject.clone().unwrap_or_default(),
        scopes: args.scopes.clone(),
        only: (!args.only.is_empty()).then(|| args.only.clone()),
    };
    let life = Duration::from_secs(args.hours * 3_600);
    let token = key.token(&args.issuer, &args.audience, &grant, life);
    match json {
        true => output::json(&json!({ "token": token, "seconds": life.as_secs() })),
        false => output::line(token),
    }
}
