//! `nudge chaos` with the real programs: it breaks them, they converge, and it reports that.

mod once;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use nudge_testbed::script;
use nudge_tests::nudge;
use serde_json::{Value, json};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(nudge());
    command.arg("chaos").args(arguments);
    command
}

fn chaos(arguments: &[&str]) -> Output {
    command(arguments).output().expect("nudge runs")
}

fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// A plan with these faults, each as `at_millis`, `for_millis`, `kind` and `on`.
fn plan(directory: &Path, millis: u64, faults: &[(u64, u64, &str, &str)]) -> String {
    let fault = |(at, lasts, kind, on): &(u64, u64, &str, &str)| json!({"at_millis": at, "for_millis": lasts, "kind": kind, "on": on});
    let faults: Vec<_> = faults.iter().map(fault).collect();
    let plan = json!({
        "format": 1, "seed": 5, "millis": millis, "stores": 300, "edit_every_millis": 40, "faults": faults,
    });
    let path = directory.join("plan.json");
    fs::write(&path, plan.to_string()).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

/// A PostgreSQL server for `--postgres-command`, whose answers can be read.
struct Server {
    said: PathBuf,
    command: String,
}

impl Server {
    fn new(directory: &Path) -> Self {
        let (said, run) = (directory.join("said"), directory.join("run.sh"));
        let text =
            format!("python3 '{}' run | tee '{}'\n", script("postgres").display(), said.display());
        fs::write(&run, text).expect("a file");
        Self { said, command: format!("sh {}", run.display()) }
    }

    /// The server's process after each command; `None` after one that ended it.
    fn pids(&self) -> Vec<Option<u64>> {
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        let whole = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        whole.map(|answer| answer["pid"].as_u64()).collect()
    }

    fn lives(&self) -> bool {
        let mut known = self.pids().into_iter().flatten();
        known.any(|pid| {
            let mut ask = Command::new("kill");
            let ask = ask.args(["-0", &pid.to_string()]).stderr(Stdio::null());
            ask.status().expect("kill runs").success()
        })
    }
}
