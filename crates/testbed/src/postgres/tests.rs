use super::*;

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn commands_are_told_in_their_order_and_the_end_of_the_input_is_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("commands");
    let script = r#"echo '{"url":"here"}'; while read -r line; do echo "$line" >> "$0"; echo '{"url":""}'; done"#;
    let command = words(&["sh", "-c", script, file.to_str().unwrap()]);
    let (mut runner, url) = Runner::start(&command).await.unwrap();
    assert_eq!(url, "here");
    for command in ["crash", "start"] {
        runner.tell(command).await.unwrap();
    }
    assert!(runner.end().await);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "crash\nstart\n");
}

#[tokio::test]
async fn a_program_that_gives_no_answer_is_of_no_more_use() {
    for script in ["exit", "read -r line; echo good", "read -r line; echo '{}'"] {
        let mut runner = Runner::spawn(&words(&["sh", "-c", script])).unwrap();
        runner.tell("crash").await.unwrap_err();
        assert!(runner.tell("start").await.unwrap_err().contains("no longer answers"));
        runner.end().await;
    }
    let mut runner = Runner::spawn(&words(&["sleep", "0.3"])).unwrap();
    let late = runner.answer(Duration::from_millis(1)).await.unwrap_err();
    assert!(late.contains("no answer within"), "{late}");
    assert!(runner.commands.is_none(), "an answer that comes later is to another command");
    runner.end().await;
}

#[tokio::test]
async fn a_program_that_says_why_it_failed_takes_the_next_command() {
    let script = r#"read -r line; echo '{"error":"no disk"}'; read -r line; echo '{"url":""}'"#;
    let mut runner = Runner::spawn(&words(&["sh", "-c", script])).unwrap();
    assert_eq!(runner.tell("start").await.unwrap_err(), "`start`: no disk");
    runner.tell("start").await.unwrap();
    runner.end().await;
}

#[tokio::test]
async fn an_answer_may_not_be_endless() {
    let script = "head -c 100000 /dev/zero; exec sleep 100";
    let mut runner = Runner::spawn(&words(&["sh", "-c", script])).unwrap();
    let why = runner.answer(Duration::from_secs(20)).await.unwrap_err();
    assert!(why.contains("not a line of JSON"), "{why}");
    runner.child.kill().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_started_is_named() {
    for (command, why) in [
        (&["/nowhere/postgres"][..], "cannot start /nowhere/postgres"),
        (&["true"], "the program has ended"),
        (&[], "it is empty"),
    ] {
        let failure = Runner::start(&words(command)).await.unwrap_err();
        assert!(failure.contains(why), "{failure}");
    }
}
