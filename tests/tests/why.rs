//! `nudge why` with real servers: the story of one entity, and which of all is the reason that it is late.

mod answers;

use std::{process::Output, time::Duration};

use nudge_tests::{Copy, Fault, Nats, Owner, ReadModel, Wire, eventually, nudge, owner::ENTITY};
use serde_json::{Value, json};

/// A port base with nobody behind it: the reserved ports below 1024 that no test may listen on.
const NOBODY: &str = "900";
const FOREVER: Duration = Duration::from_secs(3_600);

/// An owner of things, and a subscriber of it whose address outlives it.
struct Following {
    nats: Nats,
    owner: Owner,
    copy: Copy,
    at: String,
}

impl Following {
    async fn start() -> Self {
        Self::start_on(ReadModel::new().await).await
    }

    async fn start_on(model: ReadModel) -> Self {
        let nats = Nats::start().await;
        let owner = Owner::start(&nats.broker("things").await).await;
        let copy = model.start(&nats.broker("copies").await, &owner).await;
        let at = copy.admin("").replace("/nudge/v1/", "");
        Self { nats, owner, copy, at }
    }

    /// With "42" applied, and nothing under way.
    async fn with_42() -> Self {
        let following = Self::start().await;
        following.copy.wait(&following.owner.put("42", json!(1)).await).await;
        following.copy.quiet().await;
        following
    }

    async fn nudge(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(nudge());
        command.args(["--port-base", NOBODY, "--also", &format!("things={}", self.owner.url())]);
        command.args(["--also", &format!("copies={}", self.at)]).args(arguments);
        command.kill_on_drop(true).output().await.expect("nudge runs")
    }

    /// What `nudge why --json` says of a thing; and whether it says that it is equal everywhere, by its exit
    /// status.
    async fn why(&self, id: &str) -> Value {
        let output = self.nudge(&["why", &format!("{ENTITY}/{id}"), "--json"]).await;
        let said = String::from_utf8_lossy(&output.stderr);
        let story: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {said}"));
        let expected = if story["equal"] == true { 0 } else { 1 };
        assert_eq!(output.status.code(), Some(expected), "{said}");
        story
    }

    /// Waits until this is the reason that a thing is late, and where.
    async fn because(&self, id: &str, at: &str, reason: &str) -> Value {
        eventually(&format!("{id} is late at {at}: {reason}"), || async {
            let story = self.why(id).await;
            println!("{}", story["findings"]);
            let place = story["because"].as_u64()?;
            let because = story["findings"][place as usize].clone();
            (because["at"] == at && because["reason"] == reason).then_some(because)
        })
        .await
    }

    async fn is_equal(&self, id: &str) -> Value {
        eventually(&format!("{id} is equal everywhere"), || async {
            Some(self.why(id).await).filter(|story| story["equal"] == true)
        })
        .await
    }
}

/// What was found at a place.
fn reason_at(story: &Value, at: &str) -> String {
    let findings = story["findings"].as_array().expect("findings").iter();
    let finding = findings.clone().find(|finding| finding["at"] == at);
    finding.unwrap_or_else(|| panic!("nothing of {at}: {story}"))["reason"]
        .to_string()
        .replace('"', "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_equal_everywhere_has_a_timeline_from_commit_to_applied() {
    let following = Following::with_42().await;
    let story = following.is_equal("42").await;
    for (at, reason) in [("things", "recorded"), ("stream", "in_stream"), ("copies", "equal")] {
        assert_eq!(reason_at(&story, at), reason, "{story}");
    }
    let key = &story["subscribers"][0]["key"];
    let run = key["runs"].as_array().expect("runs").last().expect("a run");
    assert_eq!((&run["outcome"], &run["notifications"]), (&json!("applied"), &json!(1)));
    assert_eq!(run["version"], story["owner"]["recorded"]["version"]);
    assert_eq!(run["sequence"], story["owner"]["message"]["sequence"]);
    assert_eq!(run["published_at"], story["owner"]["message"]["published_at"]);
    // ISO times of one form are in the order of their text.
    let times = ["changed_at", "published_at", "asked_at", "answered_at", "ended_at"];
    let times = times.map(|name| run[name].as_str().expect("a time"));
    assert!(times.is_sorted(), "{times:?}");
    let output = following.nudge(&["why", "thing/42"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("thing/42 is equal everywhere.\n"), "{text}");
    assert!(text.contains("1 notification, 1 callback"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_subscriber_is_the_reason_and_the_named_command_helps() {
    let following = Following::with_42().await;
    let output = following.nudge(&["pause", "copies"]).await;
    assert!(output.status.success(), "{output:?}");
    following.owner.put("42", json!(2)).await;
    let because = following.because("42", "copies", "paused").await;
    let todo = because["todo"].as_str().expect("what to do");
    let arguments: Vec<_> = todo.strip_prefix("nudge ").expect("a command").split(' ').collect();
    let output = following.nudge(&arguments).await;
    assert!(output.status.success(), "{output:?}");
    following.is_equal("42").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_answers_503_is_the_reason() {
    let following = Following::with_42().await;
    let callback = |ids: &[String]| !ids.is_empty();
    following.owner.misbehave(move |ids| callback(ids).then_some(Fault::Status(503, Some(1))));
    following.owner.put("42", json!(2)).await;
    let because = following.because("42", "copies", "breaker_open").await;
    let says = because["says"].as_str().expect("words");
    assert!(says.contains("503"), "{says}");
    following.owner.behave();
    following.is_equal("42").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_the_reason_and_the_named_replay_helps() {
    let following = Following::with_42().await;
    following.copy.refuse(|id| (id == "42").then(|| "there is no column for it".into()));
    following.owner.put("42", json!(2)).await;
    following.copy.dead_letters(1).await;
    let because = following.because("42", "copies", "dead_letter").await;
    assert!(because["says"].as_str().unwrap().contains("there is no column for it"), "{because}");
    following.copy.accept();
    let todo = because["todo"].as_str().expect("what to do");
    let (_, command) = todo.split_once("nudge ").expect("a command");
    let output = following.nudge(&command.split(' ').collect::<Vec<_>>()).await;
    assert!(output.status.success(), "{output:?}");
    following.is_equal("42").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_key_is_the_reason_and_its_error_is_told() {
    let mut model = ReadModel::new().await;
    model.settings.max_attempts_in_memory = 1;
    model.settings.parked_retry.initial = FOREVER;
    model.settings.parked_retry.max = FOREVER;
    let following = Following::start_on(model).await;
    following.copy.wait(&following.owner.put("other", json!(1)).await).await;
    let bad = |ids: &[String]| ids.contains(&"42".to_owned());
    following.owner.misbehave(move |ids| bad(ids).then_some(Fault::Status(500, None)));
    following.owner.put("42", json!(1)).await;
    let because = following.because("42", "copies", "parked").await;
    assert!(because["says"].as_str().unwrap().contains("500"), "{because}");
    following.owner.behave();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_owner_has_not_published_and_what_the_stream_has_lost_are_told_apart() {
    let nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    let relay = owner.second_relay(&nats.broker("things").await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let at = copy.admin("").replace("/nudge/v1/", "");
    let following = Following { nats, owner, copy, at };
    following.copy.wait(&following.owner.put("42", json!(1)).await).await;
    assert_eq!(following.copy.post("pause").await, 200);
    following.owner.put("42", json!(2)).await;
    following.because("42", "copies", "paused").await;
    relay.abort();
    let _ = relay.await;
    following.owner.put("43", json!(1)).await;
    following.because("43", "things", "not_published").await;
    // Somebody deletes the stream, and makes an empty one.
    let jetstream = following.nats.jetstream().await;
    jetstream.delete_stream("CHANGES_thing").await.unwrap();
    let wire = Wire::open(&following.nats).await;
    following.because("42", "stream", "lost_in_stream").await;
    // What stands in the stream is read anew each time.
    wire.announce("43", None).await;
    let story = following.why("43").await;
    assert_eq!(story["owner"]["message"]["sequence"], 1, "{story}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_somebody_deleted_is_missed_and_not_under_way() {
    let following = Following::with_42().await;
    following.copy.wait(&following.owner.put("other", json!(1)).await).await;
    let Following { nats, owner, copy, .. } = following;
    // A program that has just written or read the row would notice, until its position has moved on.
    let copy = copy.restart(&nats.broker("copies").await, &owner).await;
    copy.wait(&owner.put("another", json!(1)).await).await;
    eventually("the position has moved on", || async {
        (copy.status().await["position"] == 3).then_some(())
    })
    .await;
    let at = copy.admin("").replace("/nudge/v1/", "");
    let following = Following { nats, owner, copy, at };
    for sql in ["DELETE FROM copy WHERE id = '42'", "DELETE FROM nudge_applied WHERE id = '42'"] {
        following.copy.db.write(sqlx::query(sql)).await.unwrap();
    }
    let because = following.because("42", "copies", "missed").await;
    assert!(because["todo"].as_str().unwrap().starts_with("nudge resync"), "{because}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_newer_than_the_owners_is_told() {
    let following = Following::with_42().await;
    let sql = "UPDATE nudge_applied SET version = version + 7 WHERE id = '42'";
    following.copy.db.write(sqlx::query(sql)).await.unwrap();
    let because = following.because("42", "copies", "ahead").await;
    assert!(because["says"].as_str().unwrap().contains("NEWER"), "{because}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_everywhere_and_what_never_was_are_equal_everywhere() {
    let following = Following::with_42().await;
    following.copy.wait(&following.owner.delete("42").await).await;
    let story = following.is_equal("42").await;
    assert_eq!(reason_at(&story, "things"), "deleted");
    let story = following.is_equal("강남 1호점/별관").await;
    assert_eq!(story["id"], "강남 1호점/별관");
    assert_eq!(reason_at(&story, "things"), "unknown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_does_not_answer_and_an_owner_that_does_not_are_told() {
    let following = Following::with_42().await;
    following.copy.begin_to_stop();
    following.because("42", "copies", "away").await;
    following.owner.go_away().await;
    let story = following.why("42").await;
    assert_eq!(story["findings"][0]["reason"], "owner_away", "{story}");
}
