//! `nudge chaos` with the real programs: it breaks them, they converge, and it says so.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use nudge_test_servers::{
    eventually, script,
    signal::{Signal, send},
};
use serde_json::{Value, json};

/// A program that the workspace builds, two directories up from this test's own executable.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let target = test.parent().and_then(|deps| deps.parent()).expect("target/debug/deps");
    let path = target.join(name);
    assert!(
        path.is_file(),
        "{} is not built: this test needs `cargo test --workspace`, or first `cargo build --workspace --bins`",
        path.display()
    );
    path
}

fn chaos(arguments: &[&str]) -> Output {
    for service in ["store-info", "search", "review"] {
        built(service);
    }
    let mut command = Command::new(built("nudge"));
    command.arg("chaos").args(arguments).output().expect("nudge runs")
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
        "format": 1, "seed": 5, "millis": millis, "stores": 300, "edit_every_millis": 20, "faults": faults,
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

    /// The server's process after each command; none after one that ended it.
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

/// Each says which databases it is about, whatever the run is for.
mod once {
    use super::*;

    #[test]
    fn everyone_converges_after_faults_of_every_kind_and_the_plan_can_be_carried_out_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let plan = directory.path().join("plan.json");
        let plan = plan.to_str().expect("UTF-8");
        let arguments = ["run", "--seed", "1", "--minutes", "0.3", "--json", "--plan-out", plan];
        let output = chaos(&arguments);
        let first = report(&output);
        assert!(output.status.success(), "{first}");
        let again = chaos(&["replay", plan, "--json"]);
        let second = report(&again);
        assert!(again.status.success(), "{second}");
        for report in [&first, &second] {
            assert_eq!(report["verdict"], "converged", "{report}");
            assert!(report["edits"].as_u64() > Some(500), "{report}");
            assert!(report["callbacks"].as_u64() > Some(50), "{report}");
            assert!(report["converge_seconds"].as_f64().is_some(), "{report}");
            let kinds = report["faults"].as_object().expect("faults by kind");
            assert!(kinds.len() >= 10 && kinds.values().all(|times| times.as_u64() > Some(0)));
            // Elsewhere no program's disk can be made to be full.
            if cfg!(target_os = "linux") {
                assert_eq!(report["skipped"], serde_json::json!([]), "{report}");
            }
        }
        for same in ["seed", "minutes", "edits", "faults", "never"] {
            assert_eq!(first[same], second[same], "{same}");
        }
    }

    #[test]
    fn everyone_converges_when_the_database_server_is_killed_and_frozen_too() {
        let directory = tempfile::tempdir().expect("a directory");
        let server = Server::new(directory.path());
        let plan = plan(
            directory.path(),
            26_000,
            &[
                (1_000, 3_000, "drop", "store-info→nats"),
                // So long that the service which is started meanwhile gives up.
                (2_000, 12_000, "kill", "database"),
                (2_200, 300, "kill", "search"),
                (5_500, 1_000, "refuse", "review→store-info"),
                (15_500, 3_000, "freeze", "database"),
                (16_000, 1_000, "kill", "review"),
                (16_500, 3_000, "kill", "nats"),
                (19_500, 1_000, "freeze", "store-info"),
                (20_000, 500, "kill", "database"),
                (21_500, 2_000, "nats-rollback", "nats"),
                (22_000, 2_500, "freeze", "database"),
            ],
        );
        let output = chaos(&["replay", &plan, "--json", "--postgres-command", &server.command]);
        let report = report(&output);
        assert!(output.status.success(), "{report}");
        assert_eq!(report["verdict"], "converged", "{report}");
        assert_eq!(report["data_in"], "PostgreSQL");
        assert_eq!(report["faults_on"]["database"], json!({"kill": 2, "freeze": 2}), "{report}");
        assert_eq!(report["faults"]["kill"], 5, "{report}");
        assert!(report["failed_starts"].as_u64() > Some(0), "{report}");
        assert_eq!(report["skipped"], json!([]), "{report}");
        assert!(report["edits"].as_u64() > Some(500), "{report}");
        let pids = server.pids();
        let without = pids.iter().filter(|pid| pid.is_none()).count();
        assert!(pids.len() == 9 && without == 2, "one answer to each command: {pids:?}");
        assert!(!server.lives(), "{pids:?}");
    }

    #[tokio::test]
    async fn the_database_server_ends_even_if_nudge_is_killed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (server, data) = (Server::new(directory.path()), directory.path().join("data"));
        let mut nudge = Command::new(built("nudge"))
            .args(["chaos", "run", "--postgres-command", &server.command, "--data-dir"])
            .arg(&data)
            .stderr(Stdio::null())
            .spawn()
            .expect("nudge runs");
        let log = data.join("logs/review.log");
        eventually("services run on it", || async { log.exists().then_some(()) }).await;
        assert!(server.lives());
        send(&nudge, Signal::KILL);
        nudge.wait().expect("it has ended");
        eventually("the server ends", || async { (!server.lives()).then_some(()) }).await;
        // Whoever stops the other programs then holds this lock until that is done.
        let lock = File::open(data.join("nudge-dev.lock")).expect("a lock");
        eventually("the programs end", || async { lock.try_lock().ok() }).await;
    }

    #[test]
    fn a_plan_that_cannot_happen_to_the_databases_is_refused_before_anything_starts() {
        let directory = tempfile::tempdir().expect("a directory");
        let (data, ran) = (directory.path().join("data"), directory.path().join("ran"));
        let (data, command) = (data.to_str().expect("UTF-8"), format!("touch {}", ran.display()));
        for (fault, given, why) in [
            ((1_000, 500, "kill", "database"), &[][..], "only with --postgres-command"),
            (
                (1_000, 500, "disk-full", "search"),
                &["--postgres-command", &command],
                "disk-full search",
            ),
        ] {
            let plan = plan(directory.path(), 6_000, &[fault]);
            let arguments = [&["replay", &plan, "--data-dir", data], given].concat();
            let output = chaos(&arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(why), "{said}");
            assert!(!ran.exists() && !Path::new(data).exists(), "something was started");
        }
    }
}
