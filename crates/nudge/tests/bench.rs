//! `nudge bench`: that it measures all that it says; how fast anything is, tests do not ask.

use std::process::Stdio;

use nudge_runtime::database::Kind;
use nudge_testbed::database::kind;
use serde_json::Value;
use tokio::process::Command;

use crate::dev::demo::NUDGE;

/// Those of the slowest figures that need no server of their own would take minutes here.
const FIGURES: [&str; 12] = [
    "drain",
    "idle",
    "load",
    "rewrite",
    "duplicates",
    "fan-out",
    "watched",
    "write",
    "relay",
    "import",
    "search",
    "outage",
];

#[tokio::test]
async fn every_figure_has_a_value_for_each_contestant() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name);
    let database = match kind() {
        Kind::Sqlite => "sqlite",
        Kind::Postgres => "postgres",
    };
    let run = Command::new(NUDGE)
        .args(["bench", "--quick", "--rounds", "1", "--database", database])
        .args(FIGURES)
        .arg("--report")
        .arg(path("report"))
        .arg("--svg")
        .arg(path("svg"))
        .arg("--markdown")
        .arg(path("markdown"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = run.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name| std::fs::read_to_string(path(name)).unwrap();
    let report: Value = serde_json::from_str(&read("report")).unwrap();
    let figures = report["figures"].as_array().unwrap();
    for name in FIGURES {
        assert!(figures.iter().any(|figure| figure["name"] == name), "{name}");
    }
    for series in figures.iter().flat_map(|figure| figure["series"].as_array().unwrap()) {
        let values = series["values"].as_array().unwrap();
        assert!(values.len() == 1 && values[0].as_f64().unwrap().is_finite(), "{series}");
    }
    let written: Vec<_> =
        figures.iter().filter(|figure| figure["title"] == "writes per 100 duplicates").collect();
    assert_eq!(written[0]["series"][0]["values"][0], 0.0, "a duplicate is never written");
    assert!(read("svg").contains("by hand, 16 at a time"));
    assert!(read("markdown").contains("| by hand, 16 at a time |"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("by hand, 16 at a time"));
    // Figures for a person to see; nothing depends on them.
    println!("{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_told_before_anything_is_measured() {
    let run = Command::new(NUDGE)
        .args(["bench", "--svg", "/nowhere/bench.svg"])
        .kill_on_drop(true)
        .output();
    let output = run.await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    let told = said.lines().last().unwrap_or_default();
    assert!(told.starts_with("error: /nowhere/bench.svg: "), "{said}");
}
