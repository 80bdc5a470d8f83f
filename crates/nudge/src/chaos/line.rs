//! A TCP line from one program to another, on which things can go wrong.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    disturb::{Counts, Disturb, Filter},
    plan::Way,
    random::Random,
};
use crate::failure::Failure;

/// Most bytes that are read at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Most connections at a time; a further one is refused.
const MAX_CONNECTIONS: usize = 512;
/// Longest time that a message is held back.
const HOLD: Duration = Duration::from_millis(400);
/// Longest life of a connection while connections are reset.
const MAX_LIFE_MILLIS: u64 = 400;
/// Most bytes of answers that pass before a connection is cut.
const MAX_BYTES_BEFORE_CUT: u64 = 400;

/// What goes wrong on a line. By default, nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) late: Option<Duration>,
    /// Whether what is said there, and back, stands still.
    pub(super) stalled: (bool, bool),
    pub(super) sever: Option<Sever>,
    pub(super) disturb: Option<Disturb>,
}

/// How connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sever {
    Reset,
    Cut,
    Refuse,
}

impl Trouble {
    fn stalls(&self, way: Way) -> bool {
        match way {
            Way::There => self.stalled.0,
            Way::Back => self.stalled.1,
        }
    }
}

/// See the module's description. Cut when dropped.
#[derive(Debug)]
pub(super) struct Line {
    address: SocketAddr,
    trouble: Arc<watch::Sender<Trouble>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Shared {
    trouble: Arc<watch::Sender<Trouble>>,
    /// The direction in which notifications go, when it is a line to NATS.
    notifications: Option<Way>,
    counts: Arc<Counts>,
    seed: u64,
}

impl Line {
    /// A line to a port of this machine.
    pub(super) async fn to(
        port: u16,
        notifications: Option<Way>,
        seed: u64,
        counts: Arc<Counts>,
    ) -> Result<Self, Failure> {
        let failed = |error| Failure::failed(format!("cannot listen: {error}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let trouble = Arc::new(watch::Sender::new(Trouble::default()));
        let shared = Shared { trouble: trouble.clone(), notifications, counts, seed };
        let task = AbortOnDropHandle::new(tokio::spawn(accept(listener, port, shared)));
        Ok(Self { address, trouble, _task: task })
    }

    /// Where it begins.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what goes wrong.
    pub(super) fn set(&self, change: impl FnOnce(&mut Trouble)) {
        self.trouble.send_modify(change);
    }
}

async fn accept(listener: TcpListener, port: u16, shared: Shared) {
    let mut connections = JoinSet::new();
    let number = AtomicU64::new(0);
    loop {
        let Ok((near, _)) = listener.accept().await else {
            // Out of file handles, most likely: that passes.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let refused = shared.trouble.borrow().sever == Some(Sever::Refuse);
        if refused || connections.len() >= MAX_CONNECTIONS {
            let _ = near.set_zero_linger();
            continue;
        }
        let random = Random::new(shared.seed, number.fetch_add(1, Relaxed));
        connections.spawn(connect(near, port, shared.clone(), random));
    }
}

async fn connect(mut near: TcpStream, port: u16, shared: Shared, mut random: Random) {
    let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let life = Duration::from_millis(random.below(MAX_LIFE_MILLIS));
    let pump = |way, random: &mut Random| {
        let ours = shared.notifications == Some(way);
        Pump {
            filter: ours.then(|| Filter::new(Random::new(random.next(), 0), shared.counts.clone())),
            left_before_cut: random.between(1, MAX_BYTES_BEFORE_CUT) as usize,
            way,
        }
    };
    let (there, back) = (pump(Way::There, &mut random), pump(Way::Back, &mut random));
    let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
    let reset = tokio::select! {
        // When one side hangs up, so does the other.
        () = there.run(near_in, far_out, shared.trouble.subscribe()) => false,
        () = back.run(far_in, near_out, shared.trouble.subscribe()) => false,
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
            Some(Sever::Refuse) => return,
            Some(Sever::Reset) => return tokio::time::sleep(life).await,
            Some(Sever::Cut) | None => {
                if trouble.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

struct Pump {
    filter: Option<Filter>,
    left_before_cut: usize,
    way: Way,
}

impl Pump {
    async fn run(
        mut self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        mut trouble: watch::Receiver<Trouble>,
    ) {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut out = Vec::new();
        let mut held_since: Option<Instant> = None;
        loop {
            let release = held_since.map(|since| since + HOLD);
            let count = tokio::select! {
                read = from.read(&mut chunk) => match read {
                    Ok(count @ 1..) => Some(count),
                    _ => return,
                },
                () = until(release), if release.is_some() => None,
            };
            let disturb = trouble.borrow().disturb;
            match (&mut self.filter, count) {
                (Some(filter), Some(count)) => filter.pass(&chunk[..count], disturb, &mut out),
                (Some(filter), None) => filter.release(&mut out),
                (None, count) => out.extend(&chunk[..count.unwrap_or(0)]),
            }
            let holds = self.filter.as_ref().is_some_and(Filter::holds);
            held_since = held_since.filter(|_| holds && count.is_some());
            if holds && held_since.is_none() {
                held_since = Some(Instant::now());
            }
            if trouble.wait_for(|trouble| !trouble.stalls(self.way)).await.is_err() {
                return;
            }
            let Trouble { late, sever, .. } = *trouble.borrow();
            if let Some(late) = late {
                tokio::time::sleep(late).await;
            }
            let cut = self.way == Way::Back && sever == Some(Sever::Cut);
            if cut && out.len() >= self.left_before_cut {
                let _ = to.write_all(&out[..self.left_before_cut]).await;
                return;
            }
            self.left_before_cut -= if cut { out.len() } else { 0 };
            if to.write_all(&out).await.is_err() {
                return;
            }
            out.clear();
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
