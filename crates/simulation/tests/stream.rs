//! A stream for a relay alone, in memory, and what a test lets go wrong there.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use nudge_protocol::EntityName;
use nudge_publisher::sink::{Altered, Asking, Looked, Message, Sink, Stored, StreamInfo};
use parking_lot::Mutex;
use tokio::{sync::watch, time::sleep};

fn stored((sequence, message): (&u64, &Message)) -> Stored {
    Stored {
        sequence: *sequence,
        subject: message.subject.clone(),
        version: Some(message.version.clone()),
        published_at: None,
    }
}

/// A stream, and what is wrong with it.
pub(crate) struct Stream {
    /// The messages that stand in it, by their places.
    pub(crate) messages: Mutex<BTreeMap<u64, Message>>,
    /// How many it keeps.
    pub(crate) room: AtomicUsize,
    /// Whether it takes nothing.
    pub(crate) refuses: AtomicBool,
    /// Whether its configuration can be restored.
    pub(crate) can_be_mended: AtomicBool,
    pub(crate) altered: AtomicBool,
    pub(crate) published: AtomicUsize,
    pub(crate) mends: AtomicUsize,
    /// How long an answer is under way that says what stands on subjects.
    pub(crate) slow: Mutex<Duration>,
    /// What happens while the relay waits for the next messages that it does not know.
    pub(crate) meanwhile: Mutex<Option<Asking<'static, ()>>>,
    /// Which run of the server keeps it.
    server: AtomicUsize,
    connections: watch::Sender<u64>,
}

impl Stream {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            messages: Mutex::default(),
            room: AtomicUsize::new(usize::MAX),
            refuses: AtomicBool::new(false),
            can_be_mended: AtomicBool::new(false),
            altered: AtomicBool::new(false),
            published: AtomicUsize::new(0),
            mends: AtomicUsize::new(0),
            slow: Mutex::default(),
            meanwhile: Mutex::default(),
            server: AtomicUsize::new(1),
            connections: watch::Sender::new(1),
        })
    }

    /// Takes what anybody publishes. Returns its place.
    pub(crate) fn take(&self, message: Message) -> u64 {
        let place = self.published.fetch_add(1, SeqCst) as u64 + 1;
        let mut messages = self.messages.lock();
        messages.retain(|_, one| one.subject != message.subject);
        messages.insert(place, message);
        while messages.len() > self.room.load(SeqCst) {
            messages.pop_first();
        }
        place
    }

    /// The server starts again, with other messages than it had.
    pub(crate) fn restart(&self, alter: impl FnOnce(&mut BTreeMap<u64, Message>)) {
        alter(&mut self.messages.lock());
        self.server.fetch_add(1, SeqCst);
        self.connections.send_modify(|connections| *connections += 1);
    }

    /// The version that stands in it for this id.
    pub(crate) fn version(&self, id: &str) -> u64 {
        let subject = format!("changes.thing.{id}");
        let messages = self.messages.lock();
        let message = messages.values().find(|one| one.subject == subject).expect("a message");
        message.version.parse().expect("a version")
    }
}

impl Sink for Stream {
    fn ensure<'a>(&'a self, _: &'a EntityName) -> Asking<'a, StreamInfo> {
        let what = || "max_msgs is 20, not -1".to_owned();
        let info = StreamInfo {
            created: "once".to_owned(),
            last_seq: self.published.load(SeqCst) as u64,
            subjects: self.messages.lock().len() as u64,
            server: Some(format!("run {}", self.server.load(SeqCst))),
            altered: self
                .altered
                .load(SeqCst)
                .then(|| Altered { what: what(), loses: Some(what()) }),
            doubled: false,
        };
        Box::pin(async { Ok(info) })
    }

    fn mend<'a>(&'a self, _: &'a EntityName) -> Asking<'a, Option<String>> {
        self.mends.fetch_add(1, SeqCst);
        let refused = !self.can_be_mended.load(SeqCst);
        if !refused {
            self.room.store(usize::MAX, SeqCst);
            self.altered.store(false, SeqCst);
        }
        Box::pin(async move { Ok(refused.then(|| "no right".to_owned())) })
    }

    fn publish<'a>(&'a self, _: &'a EntityName, message: Message) -> Asking<'a, u64> {
        let taken = match self.refuses.load(SeqCst) {
            true => {
                self.published.fetch_add(1, SeqCst);
                Err("it is full".into())
            }
            false => Ok(self.take(message)),
        };
        Box::pin(async { taken })
    }

    fn beyond<'a>(
        &'a self,
        _: &'a EntityName,
        sequence: u64,
        limit: usize,
    ) -> Asking<'a, Vec<Stored>> {
        Box::pin(async move {
            let meanwhile = self.meanwhile.lock().take();
            if let Some(meanwhile) = meanwhile {
                meanwhile.await?;
            }
            let messages = self.messages.lock();
            Ok(messages.range(sequence + 1..).take(limit).map(stored).collect())
        })
    }

    fn look_up<'a>(
        &'a self,
        _: &'a EntityName,
        subjects: Vec<String>,
    ) -> Asking<'a, Option<Looked>> {
        let messages = self.messages.lock();
        let wanted = messages.iter().filter(|(_, message)| subjects.contains(&message.subject));
        let stored = wanted.map(stored).collect();
        let last_seq = self.published.load(SeqCst) as u64;
        let slow = *self.slow.lock();
        Box::pin(async move {
            sleep(slow).await;
            Ok(Some(Looked { last_seq, stored }))
        })
    }

    fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    fn is_connected(&self) -> bool {
        true
    }
}
