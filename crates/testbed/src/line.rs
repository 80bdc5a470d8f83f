//! A TCP line from one program to another, which can be disturbed.
//!
//! Data can be delayed, stalled or cut off and, if it is the NATS protocol, single
//! notifications can be reordered, duplicated and dropped. A line that [keeps](Settings::keeps) its data
//! also shows what is in transit: an answer that was sent and has not arrived, a message that was
//! published and has not arrived.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use nudge_chance::Random;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

mod choice;
mod disturb;
mod frames;
mod pump;
mod unavailable;

pub use choice::Which;
pub use disturb::{Counts, Disturb, Hold, How, MAX_HELD};
use pump::Pump;

/// Most connections at a time; further ones are refused.
const MAX_CONNECTIONS: usize = 512;
/// Longest life of a connection while connections are reset.
const MAX_LIFE_MILLIS: u64 = 400;

/// A direction of a line.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// From the client.
    There,
    /// From the server.
    Back,
}

/// The disturbances of a line. By default, none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// The delay of each piece.
    pub late: Option<Duration>,
    /// Whether data is stalled, in each direction.
    pub stalled: (bool, bool),
    /// How connections end.
    pub sever: Option<Sever>,
    /// What happens to notifications.
    pub disturb: Option<Disturb>,
}

/// How connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sever {
    /// They are reset, each some time after it was made.
    Reset,
    /// They end within an answer.
    Cut,
    /// They are cut, and new ones are refused.
    Refuse,
    /// They are cut, and on new ones each HTTP request is answered with 503.
    Unavailable,
}

impl Trouble {
    fn stalled(&mut self, way: Way) -> &mut bool {
        match way {
            Way::There => &mut self.stalled.0,
            Way::Back => &mut self.stalled.1,
        }
    }

    fn stalls(mut self, way: Way) -> bool {
        *self.stalled(way)
    }
}

/// What a line is for.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The direction of notifications, if it is a line to NATS.
    pub notifications: Option<Way>,
    /// The source of random decisions.
    pub seed: u64,
    /// Counts what was done to notifications.
    pub counts: Arc<Counts>,
    /// Whether data for [`Line::said`] is kept. All of it is held in memory.
    pub keeps: bool,
}

/// See the module documentation. Cut when dropped.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    shared: Shared,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone, Debug)]
struct Shared {
    trouble: Arc<watch::Sender<Trouble>>,
    settings: Settings,
    /// Notifications that passed since the disturbance began.
    passed: Arc<AtomicU64>,
    /// The data of each direction.
    said: Arc<Mutex<Said>>,
}

#[derive(Debug, Default)]
struct Said {
    there: Vec<u8>,
    back: Vec<u8>,
}

impl Said {
    fn on(&mut self, way: Way) -> &mut Vec<u8> {
        match way {
            Way::There => &mut self.there,
            Way::Back => &mut self.back,
        }
    }
}

impl Line {
    /// A line to a port of this machine.
    ///
    /// # Errors
    ///
    /// If no port can be listened on.
    pub async fn to(port: u16, settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let trouble = Arc::new(watch::Sender::new(Trouble::default()));
        let shared = Shared { trouble, settings, passed: Arc::default(), said: Arc::default() };
        let task = tokio::spawn(accept(listener, port, shared.clone()));
        Ok(Self { address, shared, _task: AbortOnDropHandle::new(task) })
    }

    /// Its listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the disturbances.
    pub fn set(&self, change: impl FnOnce(&mut Trouble)) {
        self.shared.trouble.send_modify(|trouble| {
            let before = trouble.disturb;
            change(trouble);
            if trouble.disturb != before {
                self.shared.passed.store(0, Relaxed);
            }
        });
    }

    /// The disturbances.
    pub fn trouble(&self) -> Trouble {
        *self.shared.trouble.borrow()
    }

    /// Holds back all data in this direction, and forgets earlier data.
    pub fn hold(&self, way: Way) {
        self.set(|trouble| {
            self.shared.said.lock().on(way).clear();
            *trouble.stalled(way) = true;
        });
    }

    /// Releases everything, held-back data first.
    pub fn release(&self) {
        self.set(|trouble| trouble.stalled = (false, false));
    }

    /// Cuts every connection, and every new one immediately.
    pub fn cut(&self) {
        self.set(|trouble| trouble.sever = Some(Sever::Refuse));
    }

    /// Allows connections again.
    pub fn mend(&self) {
        self.set(|trouble| trouble.sever = None);
    }

    /// The data in this direction, held back or not, since the last [`hold`](Self::hold). Empty if the line
    /// does not [keep](Settings::keeps) it.
    pub fn said(&self, way: Way) -> String {
        String::from_utf8_lossy(self.shared.said.lock().on(way)).into_owned()
    }
}

impl Shared {
    /// Keeps data.
    fn note(&self, way: Way, bytes: &[u8]) {
        if self.settings.keeps {
            // Nobody can hold the line meanwhile: what is kept then is what is held back.
            let _unchanged = self.trouble.borrow();
            self.said.lock().on(way).extend_from_slice(bytes);
        }
    }
}

async fn accept(listener: TcpListener, port: u16, shared: Shared) {
    let mut connections = JoinSet::new();
    for number in 0.. {
        let Ok((near, _)) = listener.accept().await else {
            // Probably out of file handles, which is temporary.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let sever = shared.trouble.borrow().sever;
        if sever == Some(Sever::Refuse) || connections.len() >= MAX_CONNECTIONS {
            let _ = near.set_zero_linger();
            continue;
        }
        if sever == Some(Sever::Unavailable) {
            connections.spawn(unavailable::answer(near));
            continue;
        }
        let random = Random::stream(shared.settings.seed, number);
        connections.spawn(connect(near, port, shared.clone(), random));
    }
}

async fn connect(mut near: TcpStream, port: u16, shared: Shared, mut random: Random) {
    let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let life = Duration::from_millis(random.below(MAX_LIFE_MILLIS));
    let there = Pump::new(Way::There, &shared, &mut random);
    let back = Pump::new(Way::Back, &shared, &mut random);
    let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
    let reset = tokio::select! {
        // When one side hangs up, so does the other.
        () = there.run(near_in, far_out) => false,
        () = back.run(far_in, near_out) => false,
        () = reset(shared.trouble.subscribe(), life) => true,
    };
    if reset {
        let _ = (near.set_zero_linger(), far.set_zero_linger());
    }
}

/// Ends when the connection is to be reset.
async fn reset(mut trouble: watch::Receiver<Trouble>, life: Duration) {
    loop {
        let sever = trouble.borrow_and_update().sever;
        match sever {
            Some(Sever::Refuse | Sever::Unavailable) => return,
            Some(Sever::Reset) => return tokio::time::sleep(life).await,
            Some(Sever::Cut) | None => {
                if trouble.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
