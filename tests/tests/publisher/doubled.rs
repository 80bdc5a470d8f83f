//! A server may keep several messages of one subject although the stream's limit is one (`nats-server` 6245).
//!
//! No server does so at will: this one's answers are altered on their way.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use futures_util::StreamExt;
use nudge_runtime::Broker;
use nudge_tests::{Nats, Owner, eventually};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
};

use crate::publisher::support::STREAM;

const TRUE: &[u8] = b"\"num_subjects\":3";
const FALSE: &[u8] = b"\"num_subjects\":2";

/// A way to the server on which the stream has one subject less while `lies`.
async fn way_to(port: u16, lies: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut asked, mut answer) = client.into_split();
            let (mut from, mut to) = server.into_split();
            tokio::spawn(async move { copy(&mut asked, &mut to).await });
            let lies = lies.clone();
            tokio::spawn(async move {
                let mut piece = vec![0; 65_536];
                while let Ok(length @ 1..) = from.read(&mut piece).await {
                    let piece = &mut piece[..length];
                    if lies.load(Relaxed)
                        && let Some(at) = piece.windows(TRUE.len()).position(|one| one == TRUE)
                    {
                        piece[at..at + TRUE.len()].copy_from_slice(FALSE);
                    }
                    if answer.write_all(piece).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address.port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_messages_of_one_subject_are_named_and_the_server_is_made_to_look_for_them() {
    let nats = Nats::start().await;
    let lies = Arc::new(AtomicBool::new(true));
    let port = way_to(nats.port(), lies.clone()).await;
    let broker = Broker::connect(&format!("nats://127.0.0.1:{port}"), "things").await.unwrap();
    let owner = Owner::start_silent().await;
    for id in ["a", "b", "c"] {
        owner.put(id, json!({})).await;
    }
    let watcher = async_nats::connect(nats.url()).await.expect("a connection");
    let mut updates =
        watcher.subscribe(format!("$JS.API.STREAM.UPDATE.{STREAM}")).await.expect("updates");
    watcher.flush().await.expect("the server has seen it");
    owner.second_relay(&broker);
    eventually("it is named", || async { owner.publisher.health().altered.then_some(()) }).await;
    for limit in [2, 1] {
        let update = updates.next().await.expect("the stream is altered");
        let config: Value = serde_json::from_slice(&update.payload).unwrap();
        assert_eq!(config["max_msgs_per_subject"], limit);
    }
    lies.store(false, Relaxed);
    eventually("nothing is named any more", || async {
        (!owner.publisher.health().altered).then_some(())
    })
    .await;
}
