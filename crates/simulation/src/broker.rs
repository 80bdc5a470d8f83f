//! The simulated broker: a compacted stream and its durable consumers, as in JetStream.
//!
//! Pure: `now` is passed in. It guarantees exactly what
//! `nudge_subscriber_kit::source` and `nudge_publisher::sink` document.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

/// A message in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) subject: String,
    pub(crate) version: Option<String>,
    pub(crate) body: Bytes,
}

/// Versions above it are ahead of every clock, and no reader believes them.
const HIGHEST: u64 = 1 << 52;

impl Stored {
    /// The version that it names, if it is credible.
    pub(crate) fn names(&self) -> Option<u64> {
        self.version.as_ref()?.parse().ok().filter(|version| *version <= HIGHEST)
    }
}

/// A message as text.
pub(crate) fn named(Stored { subject, version, .. }: &Stored) -> String {
    match version {
        Some(version) => format!("{subject} @{version}"),
        None => format!("{subject} without a version"),
    }
}

#[derive(Clone, Debug, Default)]
struct Consumer {
    /// The last sequence delivered for the first time.
    delivered: u64,
    /// Delivered and not acknowledged: when each is redelivered.
    waiting: BTreeMap<u64, Duration>,
}

#[derive(Clone, Debug)]
struct Stream {
    created: u64,
    last: u64,
    messages: BTreeMap<u64, Stored>,
    /// The highest version that each message named, or one that it replaced.
    stand_for: BTreeMap<u64, u64>,
    /// Whether the next message leaves the one before on its subject where it is.
    keeps_old: bool,
    consumers: BTreeMap<String, Consumer>,
}

/// The progress of a stream and a consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsumerInfo {
    pub(crate) created: u64,
    pub(crate) last: u64,
    pub(crate) messages: u64,
    pub(crate) subjects: u64,
    pub(crate) delivered: u64,
    pub(crate) ack_floor: u64,
    pub(crate) ack_pending: u64,
    pub(crate) pending: u64,
}

/// A replica that asks for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// The incarnation of the stream that it knows.
    pub(crate) created: u64,
    pub(crate) consumer: &'a str,
    pub(crate) ack_wait: Duration,
    /// Most messages delivered and not acknowledged.
    pub(crate) max_ack_pending: usize,
}

/// What a consumer returns to a replica that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Message {
        sequence: u64,
        stored: Stored,
        pending: u64,
        /// It was delivered before.
        again: bool,
    },
    /// Nothing before this time, unless something is published.
    Wait(Option<Duration>),
    /// The stream or the consumer is gone.
    Gone,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    stream: Option<Stream>,
    incarnations: u64,
    backup: Option<Stream>,
    /// How often it went down.
    epoch: u64,
}

impl Broker {
    /// Creates the stream if it is missing.
    pub(crate) fn ensure(&mut self) -> ConsumerInfo {
        if self.stream.is_none() {
            self.incarnations += 1;
            self.stream = Some(Stream {
                created: self.incarnations,
                last: 0,
                messages: BTreeMap::new(),
                stand_for: BTreeMap::new(),
                keeps_old: false,
                consumers: BTreeMap::new(),
            });
        }
        self.info(None).unwrap_or_default()
    }

    /// Stores a message, replacing the one on its subject. `None` if there is no stream.
    pub(crate) fn publish(&mut self, stored: Stored) -> Option<u64> {
        let stream = self.stream.as_mut()?;
        let mut stands_for = stored.names().unwrap_or(0);
        let keeps_old = std::mem::take(&mut stream.keeps_old);
        if let Some(old) = stream.on(&stored.subject).filter(|_| !keeps_old) {
            stream.messages.remove(&old);
            stands_for = stands_for.max(stream.stand_for.remove(&old).unwrap_or(0));
        }
        stream.last += 1;
        stream.stand_for.insert(stream.last, stands_for);
        stream.messages.insert(stream.last, stored);
        stream.forget_replaced();
        Some(stream.last)
    }

    /// Whether a message on this subject waits for somebody who has not handled it.
    pub(crate) fn is_awaited(&self, subject: &str) -> bool {
        self.stream.as_ref().is_some_and(|stream| {
            let awaited = |at: u64, consumer: &Consumer| {
                at > consumer.delivered || consumer.waiting.contains_key(&at)
            };
            let at = stream.on(subject);
            at.is_some_and(|at| stream.consumers.values().any(|consumer| awaited(at, consumer)))
        })
    }

    /// Finds or creates a consumer.
    pub(crate) fn open(&mut self, consumer: &str) -> Option<ConsumerInfo> {
        let stream = self.stream.as_mut()?;
        stream.consumers.entry(consumer.to_owned()).or_default();
        self.info(Some(consumer))
    }

    /// The progress of the stream, and of the consumer if one is named.
    pub(crate) fn info(&self, consumer: Option<&str>) -> Option<ConsumerInfo> {
        let stream = self.stream.as_ref()?;
        let mut info = ConsumerInfo {
            created: stream.created,
            last: stream.last,
            messages: stream.messages.len() as u64,
            subjects: stream.newest().len() as u64,
            ..ConsumerInfo::default()
        };
        if let Some(consumer) = consumer {
            let consumer = stream.consumers.get(consumer)?;
            info.delivered = consumer.delivered;
            let first_waiting = consumer.waiting.keys().next();
            info.ack_floor = first_waiting.map_or(consumer.delivered, |first| first - 1);
            info.ack_pending = consumer.waiting.len() as u64;
            info.pending = stream.messages.range(consumer.delivered + 1..).count() as u64;
        }
        Some(info)
    }

    /// The next message for a replica of this consumer. It is redelivered at `now + ack_wait`.
    pub(crate) fn next(&mut self, asker: Asker<'_>, now: Duration) -> Next {
        let stream = self.stream.as_mut().filter(|stream| stream.created == asker.created);
        let Some(stream) = stream else { return Next::Gone };
        let Some(consumer) = stream.consumers.get_mut(asker.consumer) else {
            return Next::Gone;
        };
        let due = consumer.waiting.iter().find(|(_, at)| **at <= now).map(|(seq, _)| *seq);
        let fresh = stream.messages.range(consumer.delivered + 1..).next().map(|(seq, _)| *seq);
        let fresh = fresh.filter(|_| consumer.waiting.len() < asker.max_ack_pending);
        let Some(sequence) = due.or(fresh) else {
            return Next::Wait(consumer.waiting.values().min().copied());
        };
        consumer.delivered = consumer.delivered.max(sequence);
        consumer.waiting.insert(sequence, now + asker.ack_wait);
        let pending = stream.messages.range(consumer.delivered + 1..).count() as u64;
        match stream.messages.get(&sequence) {
            Some(stored) => {
                let again = due.is_some();
                Next::Message { sequence, stored: stored.clone(), pending, again }
            }
            None => {
                consumer.waiting.remove(&sequence);
                Next::Wait(Some(now))
            }
        }
    }

    /// A delivery is handled.
    pub(crate) fn ack(&mut self, created: u64, consumer: &str, sequence: u64) {
        if let Some(consumer) = self.consumer(created, consumer) {
            consumer.waiting.remove(&sequence);
        }
    }

    /// A delivery is still being worked on.
    pub(crate) fn progress(
        &mut self,
        created: u64,
        consumer: &str,
        sequence: u64,
        again: Duration,
    ) {
        if let Some(at) = self
            .consumer(created, consumer)
            .and_then(|consumer| consumer.waiting.get_mut(&sequence))
        {
            *at = again;
        }
    }

    fn consumer(&mut self, created: u64, consumer: &str) -> Option<&mut Consumer> {
        let stream = self.stream.as_mut().filter(|stream| stream.created == created)?;
        stream.consumers.get_mut(consumer)
    }

    /// The messages in the stream from this sequence on.
    pub(crate) fn from(&self, created: u64, sequence: u64) -> Option<Vec<(u64, Stored)>> {
        let stream = self.stream.as_ref().filter(|stream| stream.created == created)?;
        let range = stream.messages.range(sequence..);
        Some(range.map(|(sequence, stored)| (*sequence, stored.clone())).collect())
    }

    /// The message at this sequence.
    pub(crate) fn at(&self, created: u64, sequence: u64) -> Option<Stored> {
        let stream = self.stream.as_ref().filter(|stream| stream.created == created)?;
        stream.messages.get(&sequence).cloned()
    }

    /// The highest version that the message at this sequence named, or one that it replaced.
    pub(crate) fn stands_for(&self, created: u64, sequence: u64) -> u64 {
        let stream = self.stream.as_ref().filter(|stream| stream.created == created);
        stream.and_then(|stream| stream.stand_for.get(&sequence).copied()).unwrap_or(0)
    }

    /// The version that the message on this subject names.
    pub(crate) fn version_on(&self, subject: &str) -> Option<&str> {
        let stream = self.stream.as_ref()?;
        stream.messages.get(&stream.on(subject)?)?.version.as_deref()
    }

    /// The message on this subject, and its sequence.
    pub(crate) fn on_subject(&self, subject: &str) -> Option<(u64, Stored)> {
        let stream = self.stream.as_ref()?;
        let sequence = stream.on(subject)?;
        Some((sequence, stream.messages.get(&sequence)?.clone()))
    }

    /// The messages in the stream beyond this sequence, whichever incarnation it is.
    pub(crate) fn beyond(&self, sequence: u64, limit: usize) -> Option<Vec<(u64, Stored)>> {
        let messages = self.stream.as_ref()?.messages.range(sequence + 1..).take(limit);
        Some(messages.map(|(sequence, stored)| (*sequence, stored.clone())).collect())
    }

    /// Messages that were delivered and never acknowledged, or never delivered, to the consumer of a
    /// read model. Others may have been left behind; a broker removes them after a while.
    pub(crate) fn unacknowledged(&self, read_model: &str) -> usize {
        let found = self.stream.as_ref().and_then(|stream| {
            let consumer = stream.consumers.get(read_model)?;
            let undelivered = stream.messages.range(consumer.delivered + 1..).count();
            Some(consumer.waiting.len() + undelivered)
        });
        found.unwrap_or(0)
    }

    /// Keeps a copy of the store.
    pub(crate) fn back_up(&mut self) {
        self.backup = self.stream.clone();
    }

    /// Distinguishes one life of the broker from the next: no connection outlives it.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The stream's last sequence.
    pub(crate) fn last(&self) -> u64 {
        self.stream.as_ref().map_or(0, |stream| stream.last)
    }

    /// Whether there is a copy.
    pub(crate) fn has_backup(&self) -> bool {
        self.backup.is_some()
    }

    /// Comes back with the copy. False if there is none.
    pub(crate) fn roll_back(&mut self) -> bool {
        match self.backup.clone() {
            Some(backup) => {
                self.stream = Some(backup);
                self.epoch += 1;
                true
            }
            None => false,
        }
    }

    /// Loses the message on this subject for good. False if there is none.
    pub(crate) fn forget(&mut self, subject: &str) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let Some(at) = stream.on(subject) else { return false };
        stream.messages.remove(&at);
        stream.stand_for.remove(&at);
        stream.forget_replaced();
        true
    }

    /// The next message does not replace the one before on its subject.
    pub(crate) fn keep_old(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.keeps_old = true;
        }
    }

    /// Another program takes and acknowledges everything that waits for a consumer.
    pub(crate) fn taken_by_others(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        for consumer in stream.consumers.values_mut() {
            consumer.delivered = stream.last;
            consumer.waiting.clear();
        }
    }

    /// Of each subject, the newest message is kept.
    pub(crate) fn thin_out(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let newest: BTreeSet<_> = stream.newest().into_values().collect();
        stream.messages.retain(|sequence, _| newest.contains(sequence));
        stream.forget_replaced();
    }

    /// The stream is deleted, with its consumers.
    pub(crate) fn delete_stream(&mut self) {
        self.stream = None;
    }
}

impl Stream {
    /// The sequence of the newest message on this subject.
    fn on(&self, subject: &str) -> Option<u64> {
        let mut messages = self.messages.iter().rev();
        messages.find(|(_, stored)| stored.subject == subject).map(|(sequence, _)| *sequence)
    }

    /// The sequence of the newest message on each subject.
    fn newest(&self) -> BTreeMap<&str, u64> {
        self.messages.iter().map(|(sequence, stored)| (&*stored.subject, *sequence)).collect()
    }

    /// A message that was replaced is not delivered again.
    fn forget_replaced(&mut self) {
        for consumer in self.consumers.values_mut() {
            consumer.waiting.retain(|sequence, _| self.messages.contains_key(sequence));
        }
    }
}
