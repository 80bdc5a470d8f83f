//! The NATS server: which one, how it is started, and when it is ready.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nudge_runtime::Broker;
use tokio::process::Command;

use crate::program::{Launch, Output};

/// Names the server to use.
const SETTING: &str = "NATS_SERVER_BIN";
/// In a checkout, finds or installs a server and prints its path.
const SCRIPT: &str = "scripts/nats-server";
/// Timeout of one check.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// The path of a server: `NATS_SERVER_BIN`, else the output of the script of a checkout that contains one of
/// these `places` (it looks at PATH first, checks the version, and installs one if necessary), else PATH.
/// `asking` is called before that script is.
///
/// # Errors
///
/// If there is none; one line for people.
pub async fn find(places: &[&Path], asking: impl FnOnce()) -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os(SETTING).filter(|given| !given.is_empty()) {
        let path = PathBuf::from(given);
        return match is_executable(&path) {
            true => Ok(path),
            false => Err(format!("{SETTING}: {} is not an executable file", path.display())),
        };
    }
    if let Some(script) = places.iter().find_map(|place| script_above(place)) {
        asking();
        return ask_script(&script).await;
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut on_path = std::env::split_paths(&paths).map(|path| path.join("nats-server"));
    on_path.find(|path| is_executable(path)).ok_or_else(|| {
        let hint = "install it and put it on PATH, or set NATS_SERVER_BIN to its path";
        format!("there is no nats-server on PATH: {hint}")
    })
}

fn is_executable(path: &Path) -> bool {
    let mode = path.metadata().map(|found| (found.is_file(), found.permissions().mode()));
    mode.is_ok_and(|(file, mode)| file && mode & 0o111 != 0)
}

/// The script of the checkout that contains `path`.
fn script_above(path: &Path) -> Option<PathBuf> {
    let of = |root: &Path| root.join("Cargo.toml").is_file().then(|| root.join(SCRIPT));
    path.ancestors().filter_map(of).find(|script| script.is_file())
}

async fn ask_script(script: &Path) -> Result<PathBuf, String> {
    // Its messages, such as that it installs a server, go to standard error.
    let output = Command::new("python3")
        .arg(script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("cannot run python3 {SCRIPT}: {error}"))?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.success() && !path.is_empty() {
        true => Ok(PathBuf::from(path)),
        false => Err(format!("{SCRIPT} found no NATS server (see above)")),
    }
}

/// The server `exe`, on loopback, with JetStream in the directory `store`.
pub fn launch(exe: &Path, port: u16, store: &Path, output: Output) -> Launch {
    let mut launch = Launch::new("NATS", exe, output);
    launch.args = ["--addr", "127.0.0.1", "--port"].map(Into::into).to_vec();
    launch.args.extend([port.to_string().into(), "--jetstream".into(), "--store_dir".into()]);
    launch.args.push(store.into());
    launch
}

/// Whether the server answers now, through a real connection, JetStream included.
pub async fn is_ready(broker: &Broker) -> bool {
    let account = tokio::time::timeout(LOOK_TIMEOUT, broker.jetstream.query_account());
    broker.is_connected() && account.await.is_ok_and(|answer| answer.is_ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_script_is_found_from_anywhere_in_the_checkout() {
        let checkout = tempfile::tempdir().unwrap();
        let deep = checkout.path().join("target/debug");
        fs::create_dir_all(&deep).unwrap();
        assert_eq!(script_above(&deep), None);
        fs::create_dir(checkout.path().join("scripts")).unwrap();
        fs::write(checkout.path().join(SCRIPT), "").unwrap();
        // Someone else's scripts/nats-server: this is no checkout of ours.
        assert_eq!(script_above(&deep), None);
        fs::write(checkout.path().join("Cargo.toml"), "").unwrap();
        assert_eq!(script_above(&deep), Some(checkout.path().join(SCRIPT)));
    }

    #[test]
    fn only_an_executable_file_is_a_server() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_executable(file.path()));
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(is_executable(file.path()));
        assert!(!is_executable(Path::new("/")) && !is_executable(Path::new("/nowhere")));
    }
}
