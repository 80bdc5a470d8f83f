//! What `nudge dev` prints once everything is up.

use std::{path::Path, time::Duration};

use super::{data_dir::DataDir, postgres::Postgres};
use crate::{client::Service, output};

/// Lines for standard output: where things are, and what to try next.
pub(super) fn welcome(
    exe: &Path,
    port_base: u16,
    kept: &str,
    chaos: bool,
    took: Duration,
) -> Vec<String> {
    let nudge = called(exe, port_base);
    let breaks =
        format!("  {nudge} break hold --service search    (or the drawer at the end of the page)");
    let search = Service::Search.url(port_base);
    let lines = vec![
        format!(
            "ready after {}: http://127.0.0.1:{port_base}",
            output::duration(took.as_secs_f64())
        ),
        kept.to_owned(),
        String::new(),
        "Try next, in another terminal:".to_owned(),
        format!("  {nudge} watch"),
        format!(
            "  {nudge} store put my-store --name \"달빛분식 $(date +%T)\" --region 마포구 --wait"
        ),
        format!("  curl -sG {search}/stores --data-urlencode q=달빛"),
    ];
    let end = [String::new(), "Ctrl-C stops everything; the data is kept.".to_owned()];
    lines.into_iter().chain(chaos.then_some(breaks)).chain(end).collect()
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
