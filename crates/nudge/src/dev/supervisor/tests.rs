use rustix::process::Pid;

use super::*;
use crate::dev::{data_dir::DataDir, guard};

struct Fixture {
    directory: tempfile::TempDir,
    stop: CancellationToken,
    log: PathBuf,
    restarts: Arc<AtomicU64>,
    down: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// Supervises a shell script.
fn start(script: &str) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let data = DataDir::lock(directory.path(), false).unwrap();
    let log = directory.path().join("script.log");
    let mut launch = Launch::new("script", "/bin/sh", Output::Log(log.clone()));
    launch.args = vec!["-c".into(), script.into()];
    launch.env = vec![("PLACE", directory.path().display().to_string())];
    let stop = CancellationToken::new();
    // `true` reads nothing and ends at once: a guard that is gone must not matter.
    let guard = guard::start(Path::new("/bin/true"), &data).unwrap();
    let kept = Kept::new(launch, &guard);
    let (restarts, down) = (kept.restarts(), kept.down());
    let task = tokio::spawn(supervise(kept, stop.clone(), Talk::new()));
    Fixture { directory, stop, log, restarts, down, task }
}

/// Waits until `file` is there, and returns what it holds.
async fn appears(fixture: &Fixture, file: &str) -> String {
    let path = fixture.directory.path().join(file);
    let look = async {
        loop {
            match fs::read_to_string(&path) {
                Ok(text) if !text.is_empty() => return text,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), look).await.unwrap_or_else(|_| panic!("{file}"))
}

#[tokio::test]
async fn a_child_that_dies_is_started_again() {
    let fixture = start(
        "if [ -e $PLACE/once ]; then echo yes >$PLACE/again; exec sleep 600; fi; \
                         echo yes >$PLACE/once; echo why >&2; exit 7",
    );
    appears(&fixture, "again").await;
    assert_eq!(fixture.restarts.load(Relaxed), 1);
    assert_eq!(tail(&fixture.log, 0), ["why"]);
    fixture.stop.cancel();
    fixture.task.await.unwrap();
}

#[tokio::test]
async fn a_child_is_asked_to_stop_and_may_take_its_time() {
    let fixture = start(
        "trap 'echo bye >$PLACE/bye; exit 0' TERM; echo $$ >$PLACE/pid; \
                         while :; do sleep 0.05; done",
    );
    appears(&fixture, "pid").await;
    fixture.stop.cancel();
    appears(&fixture, "bye").await;
    fixture.task.await.unwrap();
}

#[tokio::test]
async fn a_task_that_is_dropped_leaves_no_child_behind() {
    let fixture = start("echo $$ >$PLACE/pid; exec sleep 600");
    let pid = appears(&fixture, "pid").await.trim().parse().unwrap();
    let pid = Pid::from_raw(pid).unwrap();
    fixture.task.abort();
    let gone = async {
        while rustix::process::test_kill_process(pid).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
}

#[tokio::test]
async fn the_log_of_the_start_before_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("search.log");
    fs::write(&log, "old").unwrap();
    rotate(&log);
    assert!(!log.exists());
    assert_eq!(fs::read_to_string(directory.path().join("search.previous.log")).unwrap(), "old");
}

#[test]
fn the_tail_is_short_and_only_of_this_run() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("x.log");
    let old = "old run\n";
    let lines: String = (0..5_000).map(|number| format!("line {number}\n\n")).collect();
    fs::write(&log, format!("{old}{lines}")).unwrap();
    let tail_lines = tail(&log, old.len() as u64);
    assert_eq!(tail_lines.len(), TAIL_LINES);
    assert_eq!(tail_lines.last().unwrap(), "line 4999");
    fs::write(&log, old).unwrap();
    assert!(tail(&log, old.len() as u64).is_empty());
    assert!(tail(Path::new("/nowhere"), 0).is_empty());
}

#[tokio::test]
async fn a_child_that_is_to_be_down_is_killed_and_not_started_before_it_may_be() {
    let fixture = start("echo $$ >$PLACE/pid; exec sleep 600");
    let first = appears(&fixture, "pid").await;
    let pid = Pid::from_raw(first.trim().parse().unwrap()).unwrap();
    fixture.down.send_replace(true);
    let gone = async {
        while rustix::process::test_kill_process(pid).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it is killed");
    fs::remove_file(fixture.directory.path().join("pid")).unwrap();
    // Longer than the pause before a child that died by itself.
    tokio::time::sleep(MIN_RESTART_DELAY + nudge_testbed::QUIET).await;
    assert!(!fixture.directory.path().join("pid").exists(), "it stays down");
    fixture.down.send_replace(false);
    assert_ne!(appears(&fixture, "pid").await, first);
    assert_eq!(fixture.restarts.load(Relaxed), 0, "nothing went wrong");
    fixture.down.send_replace(true);
    fixture.stop.cancel();
    fixture.task.await.unwrap();
}
