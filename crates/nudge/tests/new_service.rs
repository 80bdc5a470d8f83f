//! `nudge new`: what it writes compiles without a warning, is formatted, passes its own tests, and runs.
//!
//! The tests build, so they run alone (`.config/nextest.toml`). What lies below the new services is built once.

mod page;
mod project;

use std::{fs, path::Path};

use nudge_runtime::database::Kind;
use nudge_testbed::{Nats, TestDatabase, ports::free_port};
use serde_json::json;

use crate::dev::demo::Demo;
use page::{Block, Ports};
use project::{Project, Service};

const PAGE: &str = include_str!("../../../docs/new-service.md");

/// Every command and every file of the page, in its order, beside the real demo.
#[tokio::test]
async fn the_page_about_new_services_works_as_it_is_written() {
    let demo = Demo::of_real_services();
    let running = demo.start().await;
    let mut project = Project::new();
    project.set("NUDGE_PORT_BASE", demo.port_base.to_string());
    project.set("NATS_URL", format!("nats://127.0.0.1:{}", demo.port_base + 22));
    project::answers(demo.port_base, "/readyz").await;
    let ports = Ports::new(demo.port_base);
    let (mut services, mut printed) = (Vec::<(String, Service)>::new(), None::<String>);
    let blocks = page::blocks(&ports.replaced(PAGE));
    assert!(blocks.len() >= 20, "the page has no blocks");
    for block in blocks {
        match block {
            Block::File { path, text } => project.write(&path, &text),
            Block::Prints(expected) => {
                let printed = printed.take().expect("commands before it");
                assert_eq!(printed.trim_end(), expected.trim_end());
            }
            Block::Run(commands) => printed = Some(project.run(&commands).await),
            Block::Keep(command) => {
                // Whoever starts it again has stopped it.
                if let Some(place) = services.iter().position(|(text, _)| *text == command) {
                    services.remove(place).1.stop().await;
                }
                let service = project.start(&command).await;
                services.push((command, service));
            }
        }
        project.is_formatted().await;
    }
    for (_, service) in services {
        service.stop().await;
    }
    demo.stop(running).await;
}

/// Also with names that are no identifiers, and on PostgreSQL.
#[tokio::test]
async fn a_new_owner_and_a_new_subscriber_of_it_work_without_an_edit() {
    let nats = Nats::start().await;
    let mut project = Project::new();
    project.set("NATS_URL", nats.url());
    let (at, copy) = (free_port(), free_port());
    project.run(&format!("nudge new owner my-charging --entity charge-point --port {at}")).await;
    let owner = format!("--owner http://127.0.0.1:{at}");
    project
        .run(&format!("nudge new subscriber my-map --follow charge-point {owner} --port {copy}"))
        .await;
    let (owned, copied) =
        (TestDatabase::of(Kind::Postgres).await, TestDatabase::of(Kind::Postgres).await);
    let mut services = Vec::new();
    for (name, database) in [("my-charging", &owned), ("my-map", &copied)] {
        project.run(&format!("cd {}/{name}; cargo test", project.path().display())).await;
        project.is_formatted().await;
        services.push(project.start(&format!("DATABASE_URL='{}' cargo run", database.url())).await);
    }
    let body = json!({"name": "first"});
    let url = format!("http://127.0.0.1:{at}/charge-point/42");
    let answer = reqwest::Client::new().put(url).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let token = answer.headers()["nudge-token"].to_str().unwrap().to_owned();
    let also =
        format!("--also my-charging=http://127.0.0.1:{at} --also my-map=http://127.0.0.1:{copy}");
    // Those of the demo do not run.
    let wait = format!("nudge wait {token} --timeout-ms 60000 --subscriber my-map {also}");
    assert!(project.run(&wait).await.contains("my-map  applied"));
    let status = project.run(&format!("nudge status {also} || true")).await;
    for name in ["my-charging", "my-map"] {
        let is_its = |line: &str| line.split_whitespace().take(2).eq([name, "charge-point"]);
        assert!(status.lines().any(is_its), "{status}");
    }
    let read = reqwest::get(format!("http://127.0.0.1:{copy}/charge-point/42")).await.unwrap();
    assert_eq!(read.json::<serde_json::Value>().await.unwrap(), body);
    for service in services {
        service.stop().await;
    }
}

#[tokio::test]
async fn within_a_workspace_it_becomes_a_member_and_inherits_what_members_share() {
    let project = Project::new();
    let (root, member) = ("Cargo.toml", "services/names");
    let shared = "[workspace]\nresolver = \"3\"\nmembers = []\n\n[workspace.package]\nversion = \"7.0.0\"\n\
                  edition = \"2024\"\n\n[workspace.lints.rust]\nmissing_docs = \"warn\"\n";
    project.write(root, shared);
    let new = format!("nudge new subscriber names --follow store --path {member} --json");
    let made: serde_json::Value = serde_json::from_str(&project.run(&new).await).unwrap();
    assert_eq!(made["workspace_member"], true);
    let read = |path: &str| fs::read_to_string(project.path().join(path)).unwrap();
    assert!(read(root).contains(&format!("members = [\"{member}\"]")), "{}", read(root));
    let manifest = read("services/names/Cargo.toml");
    for line in ["version.workspace = true", "edition.workspace = true", "[lints]"] {
        assert!(manifest.contains(line), "{line}: {manifest}");
    }
    assert!(!project.path().join(member).join("Cargo.lock").exists(), "the workspace has one");
    let members = project.run("cargo metadata --format-version 1 --no-deps").await;
    assert!(members.contains("nudge-simulation"), "{members}");
}

#[tokio::test]
async fn what_is_refused_leaves_everything_as_it_was() {
    let project = Project::new();
    project.write("there/Cargo.toml", "mine");
    for (arguments, status, said) in [
        ("subscriber there --follow store", 1, "there exists already; nothing was written"),
        ("subscriber new --path there --follow store", 1, "there exists already"),
        ("subscriber new --follow Store", 2, "--follow <ENTITY>: \"Store\": entity name"),
        ("subscriber new", 2, "--follow <ENTITY>"),
        ("subscriber new --follow store --port 0", 2, "--port <PORT>"),
        ("subscriber new --follow store --owner 127.0.0.1", 2, "--owner <URL>"),
        ("owner New", 2, "<NAME>: \"New\": must be 1 to 40 of the characters"),
        ("owner ../new", 2, "<NAME>: \"../new\": must be 1 to 40 of the characters"),
        ("owner search", 2, "is a service of the demo"),
        ("owner serde", 2, "means something else"),
        ("owner fn", 1, "cargo: invalid package name `fn`"),
        ("owner new --nudge there", 2, "--nudge: there is no checkout of Nudge"),
        ("owner new --entity a.b", 2, "--entity <ENTITY>: \"a.b\""),
    ] {
        let command = format!("nudge new {arguments}");
        let (code, refusal) = project.refusal(&command).await;
        assert_eq!(code, Some(status), "{command}: {refusal}");
        assert!(refusal.contains(said), "{command}: {refusal}");
    }
    let names = |path: &Path| {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
        entries.collect::<Vec<_>>()
    };
    assert_eq!(names(&project.path()), ["there"]);
    assert_eq!(names(&project.path().join("there")), ["Cargo.toml"]);
    assert_eq!(fs::read(project.path().join("there/Cargo.toml")).unwrap(), b"mine");
}
