//! A way to the server that can be held, in one direction at a time, or cut: what networks do.

use std::sync::{Arc, Mutex};

use crate::Nats;
use nudge_runtime::Broker;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Bytes forwarded at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// One direction.
#[derive(Clone)]
pub struct Direction {
    held: Arc<watch::Sender<bool>>,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Direction {
    fn new() -> Self {
        Self { held: Arc::new(watch::Sender::new(false)), seen: Arc::default() }
    }

    /// Keeps back what is sent from now on.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Lets go what was kept back.
    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// Whether this text was sent, kept back or not.
    pub fn saw(&self, text: &str) -> bool {
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
pub struct Link {
    /// Where clients connect instead of the server.
    pub url: String,
    /// From the client to the server.
    pub up: Direction,
    /// From the server to the client.
    pub down: Direction,
    cut: watch::Sender<bool>,
}

impl Link {
    /// A way to this server.
    pub async fn to(nats: &Nats) -> Self {
        let server = nats.url().replace("nats://", "");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let (up, down) = (Direction::new(), Direction::new());
        let ways = (up.clone(), down.clone());
        let cut = watch::Sender::new(false);
        let broken = cut.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else {
                    continue;
                };
                if *broken.borrow() {
                    continue;
                }
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let up = ways.0.clone().forward(from_client, to_server);
                let down = ways.1.clone().forward(from_server, to_client);
                let mut broken = broken.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = up => {}
                        () = down => {}
                        _ = broken.wait_for(|broken| *broken) => {}
                    }
                });
            }
        });
        Self { url, up, down, cut }
    }

    /// A connection by this way, for a program under test.
    pub async fn broker(&self, name: &str) -> Broker {
        Broker::connect(&self.url, name).await.expect("a good URL")
    }

    /// Cuts every connection, and every new one at once.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Lets clients connect again.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}
