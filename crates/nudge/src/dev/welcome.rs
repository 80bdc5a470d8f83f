//! What `nudge dev` prints once everything is up.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nudge_runtime::auth::Scope;

use super::{data_dir::DataDir, postgres::Postgres, tokens::Tokens};
use crate::{client::Service, output};

/// What it is about.
pub(super) struct Welcome<'a> {
    pub(super) exe: &'a Path,
    pub(super) port_base: u16,
    /// Where the data is.
    pub(super) kept: &'a str,
    /// Whether something can be broken.
    pub(super) chaos: bool,
    /// Only where tokens are asked for.
    pub(super) ways_in: Option<&'a WaysIn>,
}

/// The files with which people and other services get in, as seen from here.
pub(super) struct WaysIn {
    key: String,
    operator: String,
    guest: String,
}

impl WaysIn {
    pub(super) fn of(tokens: &Tokens) -> Self {
        let shown = |path: PathBuf| quoted(&short(&path));
        Self {
            key: shown(tokens.key_file()),
            operator: shown(tokens.operator_file()),
            guest: shown(tokens.guest_file()),
        }
    }

    fn lines(&self, nudge: &str) -> Vec<String> {
        let Self { key, operator, guest } = self;
        let scopes = Scope::ALL.map(Scope::name).join(",");
        vec![
            "Everything asks for a token. For the commands below, in the other terminal:"
                .to_owned(),
            format!("  export NUDGE_TOKEN_FILE={operator}"),
            "For the login of the page, a token of your own:".to_owned(),
            format!("  {nudge} token --key {key} --subject \"$USER\" --scope {scopes} --hours 8"),
            "For a service of your own, before it is started:".to_owned(),
            format!("  set -a; . {guest}; set +a"),
            String::new(),
        ]
    }
}

impl Welcome<'_> {
    /// Lines for standard output: where things are, and what to try next.
    pub(super) fn lines(&self, took: Duration) -> Vec<String> {
        let Self { exe, port_base, kept, chaos, ways_in } = self;
        let nudge = called(exe, *port_base);
        let search = Service::Search.url(*port_base);
        let token = match ways_in {
            Some(_) => " -H \"Authorization: Bearer $(cat $NUDGE_TOKEN_FILE)\"",
            None => "",
        };
        let breaks = format!(
            "  {nudge} break hold --service search    (or the drawer at the end of the page)"
        );
        let took = output::duration(took.as_secs_f64());
        let mut lines = vec![
            format!("ready after {took}: http://127.0.0.1:{port_base}"),
            (*kept).to_owned(),
            String::new(),
        ];
        lines.extend(ways_in.iter().flat_map(|ways_in| ways_in.lines(&nudge)));
        lines.extend([
            "Try next, in another terminal:".to_owned(),
            format!("  {nudge} watch"),
            format!(
                "  {nudge} store put my-store --name \"달빛분식 $(date +%T)\" --region 마포구 --wait"
            ),
            format!("  curl -sG{token} {search}/stores --data-urlencode q=달빛"),
        ]);
        lines.extend(chaos.then_some(breaks));
        lines.extend([String::new(), "Ctrl-C stops everything; the data is kept.".to_owned()]);
        lines
    }
}

/// How this program is called on a command line for the demo at `port_base`.
pub(super) fn called(exe: &Path, port_base: u16) -> String {
    let nudge = quoted(&short(exe));
    match port_base {
        crate::DEFAULT_PORT_BASE => nudge,
        _ => format!("{nudge} --port-base {port_base}"),
    }
}

/// Where the data is.
pub(super) fn kept_in(data: &DataDir, postgres: Option<&Postgres>) -> String {
    let directory = short(data.path());
    match postgres {
        Some(postgres) => {
            format!("data is in {}; NATS' streams and logs are in {directory}", postgres.describe())
        }
        None => format!("data and logs are in {directory}"),
    }
}

/// A path as seen from here.
fn short(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

/// A path quoted for a shell.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    match path.chars().all(plain) {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}
