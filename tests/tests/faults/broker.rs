//! NATS, the connection to it, its stream, its consumer, and its permissions.

use std::time::Duration;

use nudge_protocol::EntityName;
use nudge_subscriber_kit::Settings;
use nudge_tests::{Copy, Nats, Owner, QUIET, Trial, Way, Wire, copy::quick, eventually};
use serde_json::json;

async fn notices(trial: &Trial) {
    eventually("the subscriber notices", || async {
        (trial.copy.status().await["connected"] == false).then_some(())
    })
    .await;
}

/// Makes edits that reach the stream but not the subscriber, so that they share the stream's fate.
async fn unseen_edits(trial: &Trial) {
    trial.line.hold(Way::Back);
    trial.some_edits().await;
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
        trial.mended().await;
        trial.some_edits().await;
    }
    trial.end_with_every_read_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_is_cut_again_and_again() {
    let mut trial = Trial::start("NATS: connection cut three times").await;
    for _ in 0..3 {
        trial.line.cut();
        notices(&trial).await;
        trial.some_edits().await;
        trial.line.mend();
        trial.mended().await;
        trial.some_edits().await;
    }
    trial.end_with_every_read_answered().await;
}

/// Data is lost in transit without an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_direction_is_held_up() {
    for (name, way) in [("up", Way::There), ("down", Way::Back)] {
        let mut trial = Trial::start(&format!("NATS: nothing comes {name} for a while")).await;
        trial.line.hold(way);
        trial.some_edits().await;
        tokio::time::sleep(QUIET).await;
        trial.line.release();
        trial.mended().await;
        trial.end_with_every_read_answered().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_is_deleted() {
    let mut trial = Trial::start("NATS: stream deleted").await;
    let jetstream = trial.nats.jetstream().await;
    for _ in 0..2 {
        unseen_edits(&trial).await;
        // The relay may not have recreated it yet.
        let delete = || async { jetstream.delete_stream(stream_name()).await.ok() };
        eventually("the stream is deleted", delete).await;
        trial.line.release();
        // The owner repairs the rest.
        trial.mended().await;
        trial.some_edits().await;
    }
    trial.end_with_every_read_answered().await;
}

/// Our stream denies a purge; someone recreates it without that setting, and empties it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_is_purged() {
    let mut trial = Trial::start("NATS: stream purged").await;
    let jetstream = trial.nats.jetstream().await;
    let stream = jetstream.get_stream(stream_name()).await.expect("a stream");
    stream.purge().await.expect_err("the stream refuses");
    // From here on the relay is cut off, since it would restore the settings.
    unseen_edits(&trial).await;
    jetstream.delete_stream(stream_name()).await.expect("it is deleted");
    let entity = EntityName::new("thing").expect("a name");
    let config = async_nats::jetstream::stream::Config {
        deny_purge: false,
        deny_delete: false,
        ..nudge_publisher::stream::config(&entity)
    };
    jetstream.create_stream(config).await.expect("it is recreated");
    let stream = jetstream.get_stream(stream_name()).await.expect("a stream");
    stream.purge().await.expect("it is purged");
    trial.line.release();
    trial.mended().await;
    trial.end_with_every_read_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_consumer_is_deleted() {
    let mut trial = Trial::start("NATS: consumer deleted").await;
    let wire = Wire::open(&trial.nats).await;
    let stream = trial.nats.jetstream().await.get_stream(stream_name()).await.expect("a stream");
    for _ in 0..2 {
        let consumer = wire.consumer("copies").await;
        unseen_edits(&trial).await;
        stream.delete_consumer(&consumer).await.expect("it is deleted");
        trial.line.release();
        trial.some_edits().await;
        eventually("there is one again", || async {
            stream.consumer_info(&consumer).await.ok().map(drop)
        })
        .await;
        trial.mended().await;
    }
    trial.end_with_every_read_answered().await;
}

/// A subscriber without permission to consume says what is denied, and continues automatically once it has the
/// permission.
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

/// A subscriber that may read but not acknowledge stays in step all the same. It says what is denied, because otherwise
/// nobody would know why everything is redelivered over and over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_acknowledgement_is_told_and_loses_nothing() {
    let config = "authorization { users = [ { user: any, password: a, \
                  permissions: { publish: { deny: \"$JS.ACK.>\" } } } ] }\nno_auth_user: any";
    let mut nats = Nats::start_with(Some(config)).await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let settings = Settings { ack_wait: Duration::from_secs(1), ..quick() };
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    copy.wait(&owner.put("42", json!("there")).await).await;
    let said = eventually("it says so", || async {
        copy.status().await["last_error"].as_str().map(str::to_owned)
    })
    .await;
    assert!(said.contains("Permissions Violation") && said.contains("$JS.ACK"), "{said}");
    eventually("it is redelivered", || async {
        (copy.metric("nudge_received_total").await > 1).then_some(())
    })
    .await;
    copy.converged(&owner).await;
    nats.restart_with("").await;
    let wire = Wire::open(&nats).await;
    eventually("it is acknowledged", || async {
        (wire.unacknowledged("copies").await == 0).then_some(())
    })
    .await;
    eventually("all is well again", || async {
        copy.status().await["last_error"].is_null().then_some(())
    })
    .await;
}
