//! NATS, the way to it, its stream, its consumer, and what it permits.

use nudge_protocol::EntityName;
use nudge_tests::{Copy, Nats, Owner, QUIET, Trial, Wire, eventually};
use serde_json::json;

async fn notices(trial: &Trial) {
    eventually("the subscriber notices", || async {
        (trial.copy.status().await["connected"] == false).then_some(())
    })
    .await;
}

fn stream_name() -> String {
    nudge_protocol::subject::stream_name(&EntityName::new("thing").expect("a name"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_and_again() {
    let mut trial = Trial::start("NATS: killed three times").await;
    for _ in 0..3 {
        trial.nats.kill();
        notices(&trial).await;
        trial.some_edits().await;
        trial.nats.restart().await;
        trial.some_edits().await;
    }
    trial.mended();
    trial.end_with_every_read_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_is_cut_again_and_again() {
    let mut trial = Trial::start("NATS: connection cut three times").await;
    for _ in 0..3 {
        trial.link.cut();
        notices(&trial).await;
        trial.some_edits().await;
        trial.link.mend();
        trial.some_edits().await;
    }
    trial.mended();
    trial.end_with_every_read_answered().await;
}

/// What is sent vanishes, and nobody says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_direction_is_held_up() {
    for name in ["up", "down"] {
        let mut trial = Trial::start(&format!("NATS: nothing comes {name} for a while")).await;
        let direction = if name == "up" { trial.link.up.clone() } else { trial.link.down.clone() };
        direction.hold();
        trial.some_edits().await;
        tokio::time::sleep(QUIET).await;
        direction.release();
        trial.mended();
        trial.end_with_every_read_answered().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_is_deleted() {
    let mut trial = Trial::start("NATS: stream deleted").await;
    let jetstream = trial.nats.jetstream().await;
    for _ in 0..2 {
        // The relay may not have made it again yet.
        let delete = || async { jetstream.delete_stream(stream_name()).await.ok() };
        eventually("the stream is deleted", delete).await;
        trial.some_edits().await;
    }
    trial.mended();
    trial.end_with_every_read_answered().await;
}

/// Our stream refuses to be purged; somebody makes it anew without that, and empties it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_is_purged() {
    let mut trial = Trial::start("NATS: stream purged").await;
    let jetstream = trial.nats.jetstream().await;
    let stream = jetstream.get_stream(stream_name()).await.expect("a stream");
    stream.purge().await.expect_err("the stream refuses");
    jetstream.delete_stream(stream_name()).await.expect("it is deleted");
    let entity = EntityName::new("thing").expect("a name");
    let config = async_nats::jetstream::stream::Config {
        deny_purge: false,
        deny_delete: false,
        ..nudge_publisher::stream::config(&entity)
    };
    // The relay may be quicker. Then its stream is deleted as well.
    while jetstream.create_stream(config.clone()).await.is_err() {
        let _ = jetstream.delete_stream(stream_name()).await;
    }
    trial.some_edits().await;
    let stream = jetstream.get_stream(stream_name()).await.expect("a stream");
    stream.purge().await.expect("it is purged");
    trial.mended();
    trial.end_with_every_read_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_consumer_is_deleted() {
    let mut trial = Trial::start("NATS: consumer deleted").await;
    let wire = Wire::open(&trial.nats).await;
    let stream = trial.nats.jetstream().await.get_stream(stream_name()).await.expect("a stream");
    for _ in 0..2 {
        let consumer = wire.consumer("copies").await;
        stream.delete_consumer(&consumer).await.expect("it is deleted");
        trial.some_edits().await;
        eventually("there is one again", || async {
            stream.consumer_info(&consumer).await.ok().map(drop)
        })
        .await;
    }
    trial.mended();
    trial.end_with_every_read_answered().await;
}

/// A subscriber that may not consume says so, by the name of what it may not do, and goes on by
/// itself once it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_permission_is_told_and_no_hang() {
    for (denied, subject) in [
        ("publish: [\"$JS.API.STREAM.>\", \"$JS.API.INFO\"], subscribe: \">\"", "$JS.API.CONSUMER"),
        ("publish: \">\", subscribe: \"nothing.>\"", "_INBOX"),
    ] {
        let owner_rights = "{ user: owner, password: o }";
        let config = format!(
            "authorization {{ users = [ {owner_rights}, {{ user: copies, password: c, \
             permissions: {{ {denied} }} }} ] }}\nno_auth_user: copies"
        );
        let mut nats = Nats::start().await;
        let owner = Owner::start_silent().await;
        Wire::open(&nats).await.notify(&owner.put("42", json!("there")).await).await;
        nats.restart_with(&config).await;
        let broker = nats.broker("copies").await;
        let copy = Copy::start(&broker, &owner).await;
        let said = eventually("it says so", || async {
            let status = copy.status().await;
            let error = status["last_error"].as_str()?.to_owned();
            error.contains("Permissions Violation").then_some(error)
        })
        .await;
        assert!(said.contains(subject), "{said}");
        assert_eq!(copy.status().await["connected"], false, "{said}");
        nats.restart_with("").await;
        owner.second_relay(&nats.broker("things").await);
        copy.converged(&owner).await;
    }
}
