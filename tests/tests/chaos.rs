//! `nudge chaos` with the real programs: it breaks them, they converge, and it says so.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

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

/// Its databases are SQLite, whatever the run is for.
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
}
