//! A simulated program: it may stand still, and end, at every boundary between it and the world.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use nudge_runtime::database::{Fate, Stepper};
use tokio::{runtime::Handle, sync::Notify, sync::watch, time::sleep};

use crate::{
    fault::Fault,
    world::{World, lock},
};

/// Longest time that a program stands still, longer than an acknowledgement may take.
const MAX_FREEZE: Duration = Duration::from_secs(45);
/// Longest time without a link to the broker.
const MAX_PARTITION: Duration = Duration::from_secs(15);
/// Statements that a transaction waits for, at most, before a crash inside it.
const MAX_WAITS: u64 = 12;

/// What a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Relay,
    Subscriber,
}

/// See the module's description. A restart makes another.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) world: Arc<World>,
    role: Role,
    runtime: Handle,
    dead: AtomicBool,
    died: Notify,
    frozen_until: Mutex<Duration>,
    down_until: Mutex<Duration>,
    connections: watch::Sender<u64>,
}

impl Node {
    pub(crate) fn new(name: String, role: Role, world: Arc<World>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            name,
            world,
            role,
            runtime,
            dead: AtomicBool::new(false),
            died: Notify::new(),
            frozen_until: Mutex::default(),
            down_until: Mutex::default(),
            connections: watch::Sender::new(1),
        })
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(SeqCst)
    }

    /// Resolves when it has ended.
    pub(crate) async fn death(&self) {
        while !self.is_dead() {
            self.died.notified().await;
        }
    }

    /// Ends it: from here on nothing that it does reaches the world.
    pub(crate) fn crash(&self, why: &str) {
        if !self.dead.swap(true, SeqCst) {
            self.world.tell(format!("{} crashes {why}", self.name));
            self.died.notify_waiters();
        }
    }

    /// A boundary: the program may stand still here, or end.
    pub(crate) async fn boundary(&self, crash: Fault) {
        self.alive().await;
        if self.world.strikes(Fault::Freeze) {
            let pause = self.world.up_to(MAX_FREEZE);
            self.world.tell(format!("{} stands still for {pause:?}", self.name));
            *lock(&self.frozen_until) = self.world.elapsed() + pause;
            self.alive().await;
        }
        if self.world.strikes(crash) {
            self.crash(&format!("({crash})"));
            self.alive().await;
        }
    }

    /// Waits while it stands still; for ever once it has ended.
    pub(crate) async fn alive(&self) {
        loop {
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            let until = *lock(&self.frozen_until);
            match until.checked_sub(self.world.elapsed()) {
                Some(left) if !left.is_zero() => sleep(left).await,
                _ => return,
            }
        }
    }

    /// Whether there is a link to the broker. It may break just now.
    pub(crate) fn is_linked(self: &Arc<Self>) -> bool {
        if *lock(&self.down_until) > self.world.elapsed() {
            return false;
        }
        if self.world.strikes(Fault::Partition) {
            self.cut(self.world.up_to(MAX_PARTITION));
            return false;
        }
        true
    }

    /// Cuts the link for a while; then it is made again.
    pub(crate) fn cut(self: &Arc<Self>, pause: Duration) {
        self.world.tell(format!("{} is cut off for {pause:?}", self.name));
        *lock(&self.down_until) = self.world.elapsed() + pause;
        let node = self.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            node.connections.send_modify(|count| *count += 1);
        });
    }

    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    pub(crate) fn has_link(&self) -> bool {
        *lock(&self.down_until) <= self.world.elapsed()
    }
}

impl Stepper for Node {
    fn runtime(&self) -> &Handle {
        &self.runtime
    }

    fn next(&self) -> Fate {
        let world = &self.world;
        let fate = match self.role {
            _ if self.is_dead() => Fate::CrashBefore,
            Role::Relay if world.strikes(Fault::CrashRelayDatabase) => match world.below(3) {
                0 => Fate::CrashBefore,
                1 => Fate::CrashDuring(world.below(MAX_WAITS) as u32),
                _ => Fate::CrashAfter,
            },
            Role::Relay => Fate::Done,
            Role::Subscriber if world.strikes(Fault::CrashBeforeDatabase) => Fate::CrashBefore,
            Role::Subscriber if world.strikes(Fault::CrashInTransaction) => {
                Fate::CrashDuring(world.below(MAX_WAITS) as u32)
            }
            Role::Subscriber if world.strikes(Fault::CrashAfterDatabase) => Fate::CrashAfter,
            Role::Subscriber => Fate::Done,
        };
        world.stand_still();
        fate
    }

    fn over(&self) {
        self.world.go_on();
    }

    fn crashed(&self) {
        self.world.go_on();
        self.crash("in its database work");
    }
}
