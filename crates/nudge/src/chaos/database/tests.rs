use super::*;

/// A program that answers each command with the command itself.
async fn echo() -> Program {
    let script = r#"while read -r line; do echo "{\"url\":\"$line\"}"; done"#;
    Program::start(&["sh", "-c", script].map(str::to_owned)).unwrap()
}

async fn server() -> Server {
    Server { program: Mutex::new(echo().await), urls: Vec::new(), absence: StdMutex::default() }
}

#[tokio::test]
async fn a_fault_is_ended_by_what_undoes_it_and_its_end_is_remembered() {
    let before = Instant::now();
    let server = server().await;
    server.end().await.unwrap();
    assert!(!server.was_away(before), "there was no fault");
    for kind in [Kind::Kill, Kind::Freeze] {
        server.begin(kind).await.unwrap();
        assert!(server.was_away(Instant::now()));
        let since = Instant::now();
        server.end().await.unwrap();
        assert!(server.was_away(since) && !server.was_away(Instant::now()));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_program_that_gives_no_answer_is_of_no_more_use() {
    for script in ["exit", "read -r line; echo good", "read -r line; echo '{}'"] {
        let mut program = Program::start(&["sh", "-c", script].map(str::to_owned)).unwrap();
        program.tell("crash").await.unwrap_err();
        assert!(program.tell("start").await.unwrap_err().contains("not answer any more"));
        program.end().await;
    }
    let mut program = Program::start(&["sleep".to_owned(), "0.3".to_owned()]).unwrap();
    let late = program.answer(Duration::from_millis(1)).await.unwrap_err();
    assert!(late.contains("no answer within"), "{late}");
    assert!(program.commands.is_none(), "an answer that comes later is to another command");
    program.end().await;
}

#[tokio::test]
async fn an_answer_may_not_be_endless() {
    let script = "head -c 100000 /dev/zero; sleep 100".to_owned();
    let mut program = Program::start(&["sh".to_owned(), "-c".to_owned(), script]).unwrap();
    program.answer(FIRST_PATIENCE).await.unwrap_err();
    program.child.kill().await.unwrap();
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
