//! A way to the server that can be held, in one direction at a time: what a slow network does.

use std::sync::{Arc, Mutex};

use nudge_tests::Nats;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Bytes forwarded at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// One direction.
#[derive(Clone)]
pub(crate) struct Direction {
    held: Arc<watch::Sender<bool>>,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Direction {
    fn new() -> Self {
        Self { held: Arc::new(watch::Sender::new(false)), seen: Arc::default() }
    }

    /// Keeps back what is sent from now on.
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Lets go what was kept back.
    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    /// Whether this text was sent, kept back or not.
    pub(crate) fn saw(&self, text: &str) -> bool {
        let seen = self.seen.lock().expect("not poisoned");
        seen.windows(text.len()).any(|bytes| bytes == text.as_bytes())
    }

    async fn forward(self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut held = self.held.subscribe();
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            let bytes = &chunk[..length];
            self.seen.lock().expect("not poisoned").extend(bytes);
            let _ = held.wait_for(|held| !held).await;
            if to.write_all(bytes).await.is_err() {
                return;
            }
        }
    }
}

/// See the module's description.
pub(crate) struct Link {
    /// Where clients connect instead of the server.
    pub(crate) url: String,
    /// From the client to the server.
    pub(crate) up: Direction,
    /// From the server to the client.
    pub(crate) down: Direction,
}

impl Link {
    pub(crate) async fn to(nats: &Nats) -> Self {
        let server = nats.url().replace("nats://", "");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let (up, down) = (Direction::new(), Direction::new());
        let ways = (up.clone(), down.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(ways.0.clone().forward(from_client, to_server));
                tokio::spawn(ways.1.clone().forward(from_server, to_client));
            }
        });
        Self { url, up, down }
    }
}
