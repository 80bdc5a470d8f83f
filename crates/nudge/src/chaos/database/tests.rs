use std::path::Path;

use nudge_runtime::database::Kind::Postgres;
use nudge_testbed::TestDatabase;

use super::*;

/// A program that answers each command, and writes it to a file.
async fn noting(file: &Path) -> Runner {
    let script = r#"echo '{"url":""}'; while read -r line; do echo "$line" >> "$0"; echo '{"url":""}'; done"#;
    let command = ["sh", "-c", script, file.to_str().unwrap()];
    Runner::start(&command.map(str::to_owned)).await.unwrap().0
}

async fn server(file: &Path) -> Server {
    let (runner, turn) = (Mutex::new(noting(file).await), Semaphore::new(1));
    Server { runner, urls: Vec::new(), absence: Default::default(), turn }
}

fn commands(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_fault_waits_until_the_one_before_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("commands");
    let server = server(&file).await;
    server.begin(Kind::Kill).await.unwrap();
    let next = async {
        server.begin(Kind::Freeze).await.unwrap();
        server.end().await.unwrap();
    };
    // The next one is polled first: it is its turn only when the other is over.
    tokio::join!(next, async { server.end().await.unwrap() });
    assert_eq!(commands(&file), ["crash", "start", "freeze", "thaw"]);
}

#[tokio::test]
async fn a_fault_is_ended_by_what_undoes_it_and_its_end_is_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("commands");
    let server = server(&file).await;
    let before = Instant::now();
    server.end().await.unwrap();
    server.thaw().await;
    assert!(!server.was_away(before), "there was no fault");
    for kind in [Kind::Kill, Kind::Freeze] {
        server.begin(kind).await.unwrap();
        assert!(server.was_away(Instant::now()));
        let since = Instant::now();
        server.end().await.unwrap();
        assert!(server.was_away(since) && !server.was_away(Instant::now()));
    }
    server.begin(Kind::Kill).await.unwrap();
    server.thaw().await;
    assert!(server.was_away(Instant::now()), "this is not for a server that was killed");
    server.end().await.unwrap();
    server.begin(Kind::Freeze).await.unwrap();
    server.thaw().await;
    server.stop().await;
    assert_eq!(commands(&file), ["crash", "start", "freeze", "thaw"].repeat(2));
}

#[tokio::test]
async fn a_server_that_does_not_start_at_once_is_started_again() {
    let script = r#"echo '{"url":""}'; while read -r line; do echo "$line" >> "$0"
        case $(grep -c start "$0") in 1|2) echo '{"error":"shared memory"}';; *) echo '{"url":""}';; esac
        done"#;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("commands");
    std::fs::write(&file, "").unwrap();
    let command = ["sh", "-c", script, file.to_str().unwrap()].map(str::to_owned);
    let runner = Mutex::new(Runner::start(&command).await.unwrap().0);
    let (urls, turn) = (Vec::new(), Semaphore::new(1));
    let server = Server { runner, urls, absence: Default::default(), turn };
    // It says so for each command until then.
    let why = server.begin(Kind::Kill).await.err();
    assert_eq!(why, None);
    server.end().await.unwrap();
    assert_eq!(commands(&file), ["crash", "start", "start", "start"]);
}

#[tokio::test]
async fn a_server_that_never_starts_says_why() {
    let script = r#"echo '{"url":""}'; read -r line; echo '{"url":""}'
        while read -r line; do echo '{"error":"shared memory"}'; done"#;
    let command = ["sh", "-c", script].map(str::to_owned);
    let runner = Mutex::new(Runner::start(&command).await.unwrap().0);
    let (urls, turn) = (Vec::new(), Semaphore::new(1));
    let server = Server { runner, urls, absence: Default::default(), turn };
    server.begin(Kind::Kill).await.unwrap();
    assert_eq!(server.end().await.unwrap_err(), "`start`: shared memory");
    assert!(server.was_away(Instant::now()));
}

#[tokio::test]
async fn each_service_has_a_schema_and_a_database_that_was_used_before_is_refused() {
    let database = TestDatabase::of(Postgres).await;
    let answer = format!(r#"{{"url":"{}"}}"#, database.url());
    let command = ["echo".to_owned(), answer];
    let server = Server::start(&command).await.unwrap();
    for service in Service::ALL {
        let (url, schema) = (server.database_url(service), service.schema());
        assert!(url.starts_with(database.url()) && url.ends_with(schema), "{url}");
    }
    let refusal = Server::start(&command).await.unwrap_err().to_string();
    assert!(refusal.contains("its database holds data"), "{refusal}");
}

#[tokio::test]
async fn what_cannot_be_started_or_is_no_server_is_named() {
    for (command, why) in [
        (vec!["/nowhere/postgres"], "cannot start /nowhere/postgres"),
        (vec!["true"], "the program has ended"),
        (vec!["echo", r#"{"url":"mysql://h/d"}"#], "its database must begin with postgres://"),
        (vec!["echo", r#"{"url":"postgres://a@127.0.0.1:1/d"}"#], "its database cannot connect"),
    ] {
        let command: Vec<_> = command.into_iter().map(str::to_owned).collect();
        let failure = Server::start(&command).await.unwrap_err().to_string();
        assert!(failure.starts_with("--postgres-command: "), "{failure}");
        assert!(failure.contains(why), "{failure}");
    }
}
