//! Each test chooses its own databases, whatever database is under test.

mod diverges;

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use nudge_testbed::eventually;
use serde_json::{Value, json};

use crate::{
    chaos::{Server, chaos, nudge, plan, report},
    crate_page::built,
};

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
        assert!(report["reviews"].as_u64() > Some(20), "{report}");
        assert!(report["callbacks"].as_u64() > Some(50), "{report}");
        assert!(report["converge_seconds"].as_f64().is_some(), "{report}");
        // Seven for the stores of each subscriber, and up to five for storefront's reviews.
        let planted = report["planted"].as_u64().expect("a number");
        assert!((5 * 7 + 1..=5 * 7 + 5).contains(&planted), "{report}");
        assert!(report["found_seconds"].as_f64().is_some(), "{report}");
        // On other systems, a program's disk cannot be made to appear full.
        if cfg!(target_os = "linux") {
            assert_eq!(report["never"], json!([]), "{report}");
            assert_eq!(report["skipped"], json!([]), "{report}");
        }
        let messages = report["messages"].as_object().expect("what happened to messages");
        assert!(messages.values().any(|count| count.as_u64() > Some(0)), "{report}");
    }
    for same in ["seed", "minutes", "edits", "faults", "never"] {
        assert_eq!(first[same], second[same], "{same}");
    }
}

/// The kit's first example, as its reader would build it.
#[test]
fn a_subscriber_of_somebody_elses_takes_part_is_broken_and_is_compared() {
    let directory = tempfile::tempdir().expect("a directory");
    let plan = directory.path().join("plan.json");
    let plan = plan.to_str().expect("UTF-8");
    let with = format!("names={}", built());
    let arguments = ["run", "--seed", "4", "--minutes", "0.2", "--json", "--plan-out", plan];
    let output = chaos(&[&arguments[..], &["--with", &with]].concat());
    let report = report(&output);
    assert!(output.status.success(), "{report}");
    assert!(report["longest_gap_seconds"]["names"].is_number(), "{report}");
    let places = report["faults_on"].as_object().expect("by place");
    assert!(places.keys().any(|place| place.starts_with("names")), "{report}");
    let planted = report["planted"].as_u64().expect("a number");
    assert!(planted > 5 * 7 + 3, "and three into this one: {report}");
    assert_eq!(report["skipped"], json!([]), "{report}");
    // Without it, nothing is known of its faults.
    let written = fs::read_to_string(plan).expect("a plan");
    let other = directory.path().join("other.json");
    fs::write(&other, written.replace(r#""names": ["#, r#""others": ["#)).expect("a file");
    let refused = chaos(&["replay", other.to_str().expect("UTF-8")]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("cannot happen to names"), "{said}");
    for (with, why) in
        [("search=x", "cannot be a program's name"), ("names", "must be NAME=COMMAND")]
    {
        let refused = chaos(&["run", "--with", with]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && said.contains(why), "{said}");
    }
}

#[test]
fn replicas_on_one_database_converge_while_each_of_them_is_a_victim() {
    let directory = tempfile::tempdir().expect("a directory");
    let plan = directory.path().join("plan.json");
    let plan = plan.to_str().expect("UTF-8");
    let arguments = ["run", "--seed", "2", "--minutes", "0.2", "--replicas", "2", "--json"];
    let output = chaos(&[&arguments[..], &["--plan-out", plan]].concat());
    let report = report(&output);
    assert!(output.status.success(), "{report}");
    assert_eq!((&report["verdict"], &report["replicas"]), (&json!("converged"), &json!(2)));
    let gaps = report["longest_gap_seconds"].as_object().expect("by subscriber");
    let names: Vec<_> = gaps.keys().map(String::as_str).collect();
    let expected = ["ads", "favourites", "review", "search", "storefront"];
    let expected = expected.map(|name| [name.to_owned(), format!("{name}-2")]).concat();
    assert_eq!(names, expected, "{report}");
    let places = report["faults_on"].as_object().expect("by place");
    let second = |name: &&String| name.ends_with("-2") || name.contains("-2→");
    assert!(places.keys().filter(second).count() >= 3, "{report}");
    assert_eq!(report["skipped"], json!([]), "{report}");
    let written: Value = serde_json::from_slice(&fs::read(plan).expect("a plan")).expect("JSON");
    assert_eq!(written["replicas"], 2);
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
            // Long enough for the service that starts in the meantime to give up.
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
    let mut nudge = Command::new(nudge())
        .args(["chaos", "run", "--postgres-command", &server.command, "--data-dir"])
        .arg(&data)
        .stderr(Stdio::null())
        .spawn()
        .expect("nudge runs");
    let log = data.join("logs/review.log");
    eventually("services run on it", || async { log.exists().then_some(()) }).await;
    assert!(server.lives());
    nudge.kill().expect("it is killed");
    nudge.wait().expect("it has ended");
    eventually("the server ends", || async { (!server.lives()).then_some(()) }).await;
    // Whoever then stops the other programs holds this lock until that is done.
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
