use super::*;
use crate::eventually;

/// A shell script, with its log.
fn script(text: &str) -> (Program, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let log = Output::Log(directory.path().join("log"));
    let mut launch = Launch::new("script", "/bin/sh", log);
    launch.args = vec!["-c".into(), text.into()];
    (Program::new(launch), directory)
}

/// Waits until it has said this.
async fn says(directory: &tempfile::TempDir, word: &str) {
    eventually(word, || async {
        let log = std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
        log.contains(word).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_stops_in_time_tells_how_and_what_does_not_is_killed() {
    let (mut program, said) = script("trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done");
    assert!(program.stop(Duration::ZERO).await.is_none(), "it does not run");
    program.start().unwrap();
    says(&said, "up").await;
    assert!(program.freeze());
    let status = program.stop(Duration::from_secs(60)).await.expect("also one that stands still");
    assert_eq!(status.code(), Some(3));
    assert!(!program.is_started() && !program.freeze());

    let (mut stubborn, said) = script("trap '' TERM; echo up; while :; do sleep 0.05; done");
    stubborn.start().unwrap();
    says(&said, "up").await;
    assert!(stubborn.stop(Duration::from_millis(50)).await.is_none());
    assert!(!stubborn.is_started());
}

#[tokio::test]
async fn what_ends_by_itself_is_seen_and_can_be_started_again() {
    let (mut program, said) = script("echo up; exit 7");
    program.start().unwrap();
    let status = eventually("it ends", || {
        let ended = program.ended();
        async move { ended }
    })
    .await;
    assert!(status.code() == Some(7) && program.is_started(), "we have not ended it");
    program.launch.exe = "/nowhere".into();
    program.start().unwrap_err();
    assert!(program.ended().is_some(), "all is as it was before");
    program.launch.exe = "/bin/sh".into();
    program.start().unwrap();
    assert_eq!(program.wait().await.unwrap().code(), Some(7));
    program.wait().await.unwrap_err();
    says(&said, "up\nup\n").await;
}

#[tokio::test]
async fn what_is_frozen_stands_still_until_it_is_thawed_and_can_be_killed() {
    let (mut program, said) = script("read -r line; echo $line; sleep 600");
    program.launch.holds_input = true;
    program.start().unwrap();
    assert!(program.freeze() && program.freeze());
    let input = program.input.as_mut().unwrap();
    tokio::io::AsyncWriteExt::write_all(input, b"heard\n").await.unwrap();
    program.thaw();
    says(&said, "heard").await;
    assert!(program.freeze());
    let pid = program.pid().unwrap();
    program.kill();
    assert!(rustix::process::test_kill_process(pid).is_err(), "nothing is left of it");
}

#[tokio::test]
async fn one_that_is_just_starting_a_child_is_frozen_too() {
    let (mut program, said) = script("echo up; while :; do /bin/true; done");
    program.start().unwrap();
    says(&said, "up").await;
    for _ in 0..100 {
        assert!(program.freeze());
        program.thaw();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_input_is_held_while_the_program_stops() {
    // The shell waits for `cat`, which waits for the end of the input.
    let (mut program, said) = script("trap 'exit 3' TERM; echo up; cat");
    program.launch.holds_input = true;
    program.launch.own_group = false;
    program.start().unwrap();
    says(&said, "up").await;
    assert!(program.stop(crate::QUIET).await.is_none(), "its input has ended");
}

#[tokio::test]
async fn one_that_is_dropped_is_gone() {
    let (mut program, _said) = script("exec sleep 600");
    program.start().unwrap();
    let pid = program.pid().unwrap();
    drop(program);
    assert!(rustix::process::test_kill_process(pid).is_err());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_finds_no_room_goes_on_and_its_log_does_too() {
    let text = "cd \"$PLACE\"; until echo x >>file; do :; done 2>/dev/null; echo up >&2; \
                while echo x >>file; do sleep 0.01; done 2>/dev/null; echo full >&2; \
                until echo x >>file; do sleep 0.01; done 2>/dev/null; echo room >&2; sleep 600";
    let (mut program, said) = script(text);
    program.launch.disk_may_be_full = true;
    program.launch.env = vec![("PLACE", said.path().display().to_string())];
    program.set_disk_full(true).unwrap_err();
    program.start().unwrap();
    says(&said, "up").await;
    program.set_disk_full(true).unwrap();
    says(&said, "full").await;
    program.set_disk_full(false).unwrap();
    says(&said, "room").await;
}
