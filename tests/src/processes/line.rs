//! A TCP line between two programs, on which what is said in one direction can be held up.
//!
//! That is how a program is caught with something in hand: an answer that was made and has not
//! arrived, a message that was sent and is not there.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// Most bytes that are read at a time.
const CHUNK_BYTES: usize = 1 << 16;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What the one who connected says.
    There,
    /// What is answered.
    Back,
}

#[derive(Clone)]
struct Gate {
    closed: Arc<watch::Sender<Option<Way>>>,
    held: Arc<Mutex<Vec<u8>>>,
}

/// See the module's description. Cut when dropped.
pub struct Line {
    address: SocketAddr,
    gate: Gate,
    _task: AbortOnDropHandle<()>,
}

impl Line {
    /// A line to a port.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let gate = Gate { closed: Arc::new(watch::Sender::new(None)), held: Arc::default() };
        let task = tokio::spawn(connect(listener, port, gate.clone()));
        Self { address, gate, _task: AbortOnDropHandle::new(task) }
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets nothing more through that goes this way.
    pub fn hold(&self, way: Way) {
        self.gate.held.lock().expect("not poisoned").clear();
        self.gate.closed.send_replace(Some(way));
    }

    /// What has been held up so far.
    pub fn held(&self) -> String {
        String::from_utf8_lossy(&self.gate.held.lock().expect("not poisoned")).into_owned()
    }

    /// Lets everything go on, with what was held up first.
    pub fn release(&self) {
        self.gate.closed.send_replace(None);
    }
}

async fn connect(listener: TcpListener, port: u16, gate: Gate) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let gate = gate.clone();
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
                return;
            };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            // When one side hangs up, so does the other.
            tokio::select! {
                () = pump(near_in, far_out, &gate, Way::There) => {}
                () = pump(far_in, near_out, &gate, Way::Back) => {}
            }
        });
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, gate: &Gate, way: Way) {
    let mut closed = gate.closed.subscribe();
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        if *closed.borrow() == Some(way) {
            gate.held.lock().expect("not poisoned").extend_from_slice(&chunk[..count]);
        }
        let opened = closed.wait_for(|closed| *closed != Some(way)).await.is_ok();
        if !opened || to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}
