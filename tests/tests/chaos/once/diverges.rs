//! Someone changes a read model by hand, which no notification reveals: the run must report it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use nudge_testbed::eventually;
use serde_json::{Value, json};
use sqlx::{AnyConnection, AssertSqlSafe, Connection};

use crate::chaos::{command, nudge, plan, report};

/// Number of live stores in a read model at which the edits have long left the first ones behind: they move on in
/// groups of 60 stores.
const ENOUGH: u32 = 50;

/// A run with its data in `data`.
fn start(data: &Path, arguments: &[&str]) -> Child {
    let mut command = command(arguments);
    command.arg("--json").arg("--data-dir").arg(data);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nudge runs")
}

fn end(run: Child) -> Output {
    run.wait_with_output().expect("it has ended")
}

/// Runs a statement on the live store of `table` that has been unchanged for the longest time, once no edit can be on
/// its way to it. Returns the store's ID.
async fn meddle(file: PathBuf, table: &str, statement: &str) -> String {
    sqlx::any::install_default_drivers();
    let url = format!("sqlite:{}", file.display());
    let settled = format!(
        "SELECT id FROM {table} WHERE (SELECT count(*) FROM {table}) >= {ENOUGH} ORDER BY version"
    );
    eventually("a store is settled, and changed", || async {
        let mut connection = AnyConnection::connect(&url).await.ok()?;
        let id = sqlx::query_scalar::<_, String>(AssertSqlSafe(settled.clone()));
        let id = id.fetch_optional(&mut connection).await.ok()??;
        let change = sqlx::query(AssertSqlSafe(statement.to_owned())).bind(id.clone());
        let changed = change.execute(&mut connection).await.ok()?.rows_affected();
        connection.close().await.ok()?;
        (changed == 1).then_some(id)
    })
    .await
}

/// Each difference as service, ID and what differs.
fn differences(report: &Value) -> Vec<[String; 3]> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = report["differences"].as_array().expect("a list").iter();
    all.map(|one| [text(&one["service"]), text(&one["id"]), text(&one["what"])]).collect()
}

#[tokio::test]
async fn a_store_that_was_changed_behind_a_read_models_back_fails_the_run_and_a_replay_goes_well() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("it's data");
    let run = start(&data, &["run", "--seed", "3", "--minutes", "0.15", "--heal-seconds", "8"]);
    let change = "UPDATE store SET name = 'meddled with' WHERE id = $1";
    let search = meddle(data.join("search.db"), "store", change).await;
    let change = "UPDATE known_store SET name = 'meddled with' WHERE id = $1";
    let live = "(SELECT * FROM known_store WHERE deleted = 0)";
    let review = meddle(data.join("review.db"), live, change).await;
    let change = "UPDATE store SET name = 'meddled with' WHERE id = $1";
    let live = "(SELECT * FROM store WHERE deleted = 0)";
    let storefront = meddle(data.join("storefront.db"), live, change).await;
    let output = end(run);
    let diverged = report(&output);
    assert_eq!(output.status.code(), Some(1), "{diverged}");
    assert_eq!(diverged["verdict"], "diverged", "{diverged}");
    assert_eq!(diverged["converge_seconds"], Value::Null, "{diverged}");
    let expected = [("search", search), ("review", review), ("storefront", storefront)];
    let expected = expected.map(|(service, id)| [service.to_owned(), id, "name".to_owned()]);
    assert_eq!(differences(&diverged), expected, "{diverged}");
    assert_eq!(diverged["differences"][0]["found"], "meddled with", "{diverged}");
    assert_eq!(diverged["differences_total"], 3, "{diverged}");

    // Verbatim, for a shell.
    let replay = diverged["replay"].as_str().expect("how to see it again");
    let arguments = replay.strip_prefix("nudge ").expect("a command line");
    let line = format!("'{}' {arguments} --json", nudge().display());
    let again = Command::new("sh").args(["-c", &line]).output().expect("sh runs");
    let converged = report(&again);
    assert!(again.status.success(), "{converged}");
    assert_eq!(converged["verdict"], "converged", "{converged}");
    assert_eq!(converged["replay"], Value::Null, "{converged}");
    for same in ["seed", "edits", "faults"] {
        assert_eq!(diverged[same], converged[same], "{same}");
    }
}

#[tokio::test]
async fn what_only_a_closer_look_shows_fails_the_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let plan = plan(directory.path(), 8_000, &[]);
    let run = start(&data, &["replay", &plan, "--heal-seconds", "3"]);
    let change = "DELETE FROM store_words WHERE rowid = (SELECT row FROM store WHERE id = $1)";
    let lost = meddle(data.join("search.db"), "store", change).await;
    let live = "(SELECT k.id, a.version FROM known_store AS k JOIN nudge_applied AS a ON a.id = k.id \
                WHERE k.deleted = 0)";
    let change = "UPDATE known_store SET name = 'meddled with' WHERE id = $1";
    let favourite = meddle(data.join("favourites.db"), live, change).await;
    // A store that is closed is not advertised, so its name is not to be seen.
    let change = "UPDATE known_store SET open = 1 - open WHERE id = $1";
    let advertised = meddle(data.join("ads.db"), live, change).await;
    let output = end(run);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(report["verdict"], "diverged", "{report}");
    let (by_text, others): (Vec<_>, Vec<_>) =
        differences(&report).into_iter().partition(|[service, ..]| service == "search");
    assert!((2..=4).contains(&by_text.len()), "by its name, and by parts of it: {report}");
    for [_, id, what] in by_text {
        assert!(id == lost && what.starts_with("found by "), "{report}");
    }
    let expected = [["favourites", &favourite, "name"], ["ads", &advertised, "open"]];
    assert_eq!(others, expected.map(|one| one.map(str::to_owned)), "{report}");
    let of_search = |one: &&Value| one["service"] == "search";
    for difference in report["differences"].as_array().expect("a list").iter().filter(of_search) {
        assert_eq!((&difference["expected"], &difference["found"]), (&json!(true), &json!(false)));
    }
}
