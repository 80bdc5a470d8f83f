//! What the command line asks the broker.

use async_nats::jetstream::{self, consumer::pull, stream};
use nudge_runtime::Broker;
use nudge_testbed::{Nats, ports::free_port};
use serde_json::{Value, json};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_only_the_broker_knows_is_named() {
    let nats = Nats::start().await;
    let client = async_nats::connect(nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    let config = stream::Config {
        name: "CHANGES_charger".into(),
        subjects: vec!["changes.charger.*".into()],
        ..Default::default()
    };
    let stream = jetstream.create_stream(config).await.unwrap();
    for name in ["charging-map-charger", "somebody"] {
        let durable_name = Some(name.to_owned());
        let config = pull::Config { durable_name, ..Default::default() };
        stream.create_consumer(config).await.unwrap();
    }
    jetstream.publish("changes.charger.1", "".into()).await.unwrap().await.unwrap();
    // The demo does not run, which the command says, too.
    let port_base = free_port().to_string();
    let status = async |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nudge"));
        let nats_url = nats.url();
        command.args(["status", "--port-base", &port_base, "--nats-url", &nats_url]).args(more);
        let output = command.output().await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stdout).unwrap()
    };
    let told: Value = serde_json::from_str(&status(&["--json"]).await).unwrap();
    let silent =
        json!([{"service": "charging-map", "entity": "charger", "pulling": false, "pending": 1}]);
    assert_eq!(told["silent"], silent);
    let lines = status(&[]).await;
    let line = "charging-map holds a consumer of changes of charger, 1 pending, and does not pull them now";
    assert!(lines.contains(line), "{lines}");
    assert!(lines.contains("--also charging-map=URL"), "{lines}");
}

/// The services are shown all the same.
#[tokio::test]
async fn a_broker_that_is_away_hides_no_service() {
    let ports = [free_port(), free_port()].map(|port| port.to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_nudge"));
    let nats_url = format!("nats://127.0.0.1:{}", ports[1]);
    command.args(["status", "--port-base", &ports[0], "--nats-url", &nats_url]);
    let output = command.output().await.unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(lines.contains("store-info") && lines.contains("does not answer"), "{lines}");
}

/// Replies come on subjects that contain the client's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_have_any_name() {
    let nats = Nats::start().await;
    for name in ["my service", "가게 > *", "a.b"] {
        let broker = Broker::connect(&nats.url(), name).await.unwrap();
        let account = broker.jetstream.query_account().await;
        assert!(account.is_ok(), "{name}: {account:?}");
    }
}
