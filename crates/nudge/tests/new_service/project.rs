//! A folder outside the workspace in which `nudge new` writes, cargo builds and services run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use nudge_testbed::eventually;
use rustix::process::Signal;
use tokio::process::{Child, Command};

use crate::dev::demo::{ends, signal};

const NUDGE: &str = env!("CARGO_BIN_EXE_nudge");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Longest time that commands may take. On an empty target directory they compile a few hundred crates.
const COMMANDS_TIMEOUT: Duration = Duration::from_secs(900);
/// Where commands tell in which directory they have ended. Not in a folder of the project's.
const DIRECTORY: &str = "directory";
/// Where a service's output goes.
const LOG: &str = "log";

/// The folder. What is built goes to the directory of the tests.
pub(crate) struct Project {
    temporary: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Project {
    pub(crate) fn new() -> Self {
        nudge_runtime::tls::install();
        let temporary = tempfile::tempdir().unwrap();
        fs::create_dir_all(temporary.path().join(".cargo")).unwrap();
        fs::write(temporary.path().join(".cargo/config.toml"), settings()).unwrap();
        fs::create_dir(temporary.path().join("project")).unwrap();
        let programs = Path::new(NUDGE).parent().unwrap();
        let path = env::var("PATH").unwrap();
        let project = Self {
            environment: vec![
                ("PATH", format!("{}:{path}", programs.display())),
                ("CARGO_TARGET_DIR", programs.parent().unwrap().display().to_string()),
                ("CARGO_NET_OFFLINE", "true".to_owned()),
                ("CARGO_TERM_COLOR", "never".to_owned()),
                // It compiles as rustc does, and says more.
                ("RUSTC_WORKSPACE_WRAPPER", "clippy-driver".to_owned()),
                ("LOG", "warn".to_owned()),
            ],
            temporary,
        };
        project.is_in(&project.path());
        project
    }

    /// Where commands begin.
    pub(crate) fn path(&self) -> PathBuf {
        self.temporary.path().join("project")
    }

    /// Sets a variable of the environment of all that is run.
    pub(crate) fn set(&mut self, name: &'static str, value: String) {
        self.environment.push((name, value));
    }

    fn is_in(&self, directory: &Path) {
        let text = directory.display().to_string();
        fs::write(self.temporary.path().join(DIRECTORY), text).unwrap();
    }

    /// Where the last commands have ended.
    fn directory(&self) -> PathBuf {
        fs::read_to_string(self.temporary.path().join(DIRECTORY)).unwrap().trim_end().into()
    }

    /// Writes a file in the directory in which the last commands have ended.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.directory().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn shell(&self, commands: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", commands]).current_dir(self.directory());
        let of_this_test = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_"];
        for (name, _) in env::vars() {
            // Some build scripts look at the first of these, and would run again.
            if of_this_test.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        for name in ["DATABASE_URL", "NUDGE_ALSO_FROM", "BIND"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn output(&self, commands: &str) -> Output {
        let output = self.shell(commands).output();
        let output = tokio::time::timeout(COMMANDS_TIMEOUT, output).await;
        output.unwrap_or_else(|_| panic!("not in time: {commands}")).unwrap()
    }

    /// Runs commands, which must succeed, and returns what they print. Cargo must not have warned.
    pub(crate) async fn run(&self, commands: &str) -> String {
        let ends_in = self.temporary.path().join(DIRECTORY);
        let output = self.output(&format!("{commands}\npwd >'{}'", ends_in.display())).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8(output.stdout).unwrap();
        let fine = output.status.success() && !stderr.contains("warning");
        assert!(fine, "{commands}\n{stdout}\n{stderr}\n{}", self.log());
        stdout
    }

    /// The exit status of a command that fails, and the one line that it says.
    pub(crate) async fn refusal(&self, command: &str) -> (Option<i32>, String) {
        let output = self.output(command).await;
        let line = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), line)
    }

    /// Checks that what is written here is as cargo formats it.
    pub(crate) async fn is_formatted(&self) {
        if self.directory().join("Cargo.toml").exists() {
            self.run("cargo fmt --check").await;
        }
    }

    /// Starts a service with a command that ends in `cargo run`, and waits until it answers.
    pub(crate) async fn start(&self, command: &str) -> Service {
        let log = self.temporary.path().join(LOG);
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        // So that the process is the service, and no shell.
        let mut command = self.shell(&command.replace("cargo run", "exec cargo run --quiet"));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().unwrap();
        tokio::select! {
            () = answers(self.port(&command), "/livez") => Service(child),
            ended = child.wait() => panic!("{ended:?}: {}", self.log()),
        }
    }

    /// Where the service of a command listens: as `BIND` says, or by default.
    fn port(&self, command: &Command) -> u16 {
        let command = command.as_std().get_args().last().unwrap().to_string_lossy().into_owned();
        let bind = command.split_once("BIND=127.0.0.1:").map(|(_, rest)| rest.to_owned());
        let by_default = || {
            let code = fs::read_to_string(self.directory().join("src/lib.rs")).unwrap();
            code.split_once(".listen(\"127.0.0.1:").unwrap().1.to_owned()
        };
        let rest = bind.unwrap_or_else(by_default);
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.temporary.path().join(LOG)).unwrap_or_default()
    }
}

/// A running service. Killed when dropped.
pub(crate) struct Service(Child);

impl Service {
    /// Stops it as an operator does.
    pub(crate) async fn stop(self) {
        signal(&self.0, Signal::TERM);
        let output = ends(self.0).await;
        assert!(output.status.success(), "{output:?}");
    }
}

/// Waits until a path of a service is answered with success.
pub(crate) async fn answers(port: u16, path: &str) {
    let url = format!("http://127.0.0.1:{port}{path}");
    let ask = async || {
        let answer = reqwest::get(&url).await.ok()?;
        answer.status().is_success().then_some(())
    };
    eventually("a service answers", ask).await;
}

/// The workspace's settings and profile for builds like this one: what is below a service is then built once for both.
fn settings() -> String {
    let settings = fs::read_to_string(Path::new(ROOT).join(".cargo/config.toml")).unwrap();
    let workspace = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let (_, rest) = workspace.split_once("\n[profile.dev]\n").expect("a profile");
    let (profile, _) = rest.split_once("\n[profile.fuzz]\n").expect("another profile");
    format!("{settings}\n[profile.dev]\n{profile}\n")
}
