//! Checks the stream: what it may have lost, and what it holds that nobody has marked.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use nudge_runtime::{BoxError, mutated};
use tokio::time::Instant;

use super::{Held, MAX_ROWS_PER_ROUND, Relay, compare::Wanted};
use crate::{
    change_log::{outbox::Published, restored::Renewed},
    sink::StreamInfo,
};

/// Interval between checks of the stream, to notice that it was deleted or emptied.
pub(super) const STREAM_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How many of the messages published last are looked for in the stream on each connection.
const LOOKED_AT: usize = 16;

impl Relay {
    /// Finds out whether the broker may have lost something, and makes those rows pending again; and
    /// whether the stream holds something that nobody has marked.
    pub(super) async fn check_stream(&mut self) -> Result<(), BoxError> {
        loop {
            let mut now = self.look_at_stream().await?;
            self.restarted |= self.server.is_some() && self.server != now.server;
            self.server = now.server.clone();
            self.log_went_back().await?;
            let changed = self.altering.lost || self.stream.as_ref() != Some(&now);
            let changed = mutated!(LossUnnoticed: changed => false);
            if changed {
                now = self.make_good().await?;
            }
            if !self.locked.is_empty() {
                self.locked = self.log.unpublish(&self.locked, now.last_seq).await?;
            }
            self.bury_deferred().await?;
            let renewed = self.read_on(now.last_seq).await?;
            // If the log was restored meanwhile, it knows less than was found out: that must not be
            // stored there, and everything must be found out again.
            if renewed || self.log_went_back().await? {
                continue;
            }
            if changed {
                // Kept for the next relay: what this one sent may arrive when it is gone.
                let known = self.strangers.known(self.known.unwrap_or(0));
                self.log.set_stream(&now, known).await?;
                (self.restarted, self.altering.lost) = (false, false);
            }
            self.count_tombstones().await?;
            if self.short && self.comparison.is_none() {
                self.compare_everything(&now);
            }
            self.expected = now.subjects;
            self.stream = Some(now);
            self.next_check = Instant::now() + STREAM_CHECK_INTERVAL;
            return Ok(());
        }
    }

    /// Checks that the log still has what this relay marked. If not, an older state of the
    /// database was restored, or a server without the last commits took over: the relay then
    /// knows nothing about the stream.
    pub(super) async fn log_went_back(&mut self) -> Result<bool, BoxError> {
        let kept =
            mutated!(LogPutBackUnnoticed: self.log.keeps(&self.newest_marked).await? => true);
        if kept {
            self.newest_marked.drain(..self.newest_marked.len().saturating_sub(1));
        } else {
            tracing::warn!(entity = %self.log.entity(), "the change log went back to an older state");
            // The sequence in the log may have been written a moment ago.
            (self.stream, self.known) = (None, Some(0));
            self.newest_marked.clear();
            self.strangers.forget();
        }
        Ok(!kept)
    }

    /// Makes rows pending again that the stream has certainly lost. What else it may have lost is looked for
    /// afterwards, while publishing goes on.
    async fn make_good(&mut self) -> Result<StreamInfo, BoxError> {
        let log = self.log.clone();
        let stored = log.stream().await?;
        let highest_seq = log.highest_place().await?;
        // Read after the log, so that it holds everything that the log counts.
        let now = self.sink.ensure(log.entity()).await?;
        // A new incarnation holds nothing that was published to the last one.
        let same = stored.as_ref().filter(|stream| stream.created == now.created);
        // A server that ran all the time has lost nothing: there is nothing to publish again when an
        // owner starts or reconnects.
        let checked = same.is_some_and(|stream| stream.checked == now.server);
        let restarted = self.restarted || now.server.is_none() || !checked;
        if restarted {
            log.trust_only(now.server.as_deref()).await?;
        }
        let went_back = highest_seq > now.last_seq;
        let looked_anew = self.stream.is_none();
        let mut left = Vec::new();
        if went_back {
            left.extend(log.unpublish_beyond(now.last_seq).await?);
        }
        // Others may have published so much since it went back that it is as long as before.
        // While it was altered, it may have lost some messages and kept as many others.
        let refilled =
            self.altering.lost || (same.is_some() && looked_anew && !self.last_are_there().await?);
        if same.is_none() || refilled {
            left.extend(log.unpublish_all(now.last_seq).await?);
        }
        let any = log.has_any().await?;
        // A subject never loses its message. What two relays publish at the same time is expected
        // twice, so the log has the last word.
        let emptied = !looked_anew
            && now.subjects < self.expected
            && log.count_published().await? > self.sink.ensure(log.entity()).await?.subjects;
        self.locked.extend(left);
        if emptied {
            self.compare_everything(&now);
        } else if went_back || (looked_anew && restarted) {
            self.compare(Wanted::the_last_minutes(), went_back || refilled, &now);
        } else if looked_anew || self.metrics.strangers.get() > 0 {
            self.compare(Wanted::Counts, false, &now);
        }
        if looked_anew || went_back || emptied || refilled || same.is_none() {
            // Their messages may be lost.
            self.held = Held::default();
        }
        if went_back || refilled || same.is_none() {
            // Those sequences are no longer in the log.
            self.newest_marked.clear();
        }
        if same.is_none() {
            self.strangers.forget();
        }
        self.known = match same {
            Some(stream) => self.known.or(Some(stream.known())),
            // A log restored to before its first check of this stream: read all of it.
            None if any => Some(0),
            // A new owner has nothing to say about what others published before.
            None => Some(now.last_seq),
        };
        if (same.is_none() && stored.is_some()) || went_back || refilled {
            tracing::warn!(entity = %log.entity(), ?now, "the stream lost notifications: publishing them again");
            self.metrics.republished.inc();
        }
        Ok(now)
    }

    /// Whether the messages published last are at the sequences in the log, or were replaced by a newer message
    /// on its subject. If not, the broker went back to an older state, which loses the newest first.
    async fn last_are_there(&self) -> Result<bool, BoxError> {
        let last = self.log.last_published(LOOKED_AT).await?;
        let Some(mut known) = last.last().map(|one| one.seq.saturating_sub(1)) else {
            return Ok(true);
        };
        let (mut taken, mut shown) = (HashSet::new(), HashMap::new());
        loop {
            let page = self.sink.beyond(self.log.entity(), known, MAX_ROWS_PER_ROUND).await?;
            let Some(end) = page.last() else { break };
            known = end.sequence;
            for one in &page {
                taken.insert(one.sequence);
                let published = Published::by(self.log.entity(), one);
                shown.extend(published.map(|one| (one.id.clone(), one)));
            }
        }
        Ok(last.iter().all(|one| match shown.get(&one.id) {
            Some(shown) if shown.seq == one.seq => shown.version == one.version,
            // No two messages ever have the same sequence.
            Some(shown) => shown.seq > one.seq && !taken.contains(&one.seq),
            None => false,
        }))
    }

    /// Reads the messages in the stream that this relay does not know: published by another relay,
    /// by this one before it gave up waiting, or by somebody else. Each counts like an
    /// acknowledgement, so a message that replaced a newer version leaves its row pending.
    ///
    /// Returns whether there were versions that the log did not have. An owner that was restored may
    /// lack others, too, below the known sequence: then nothing counts as known any more.
    async fn read_on(&mut self, last_seq: u64) -> Result<bool, BoxError> {
        // There is nothing beyond the end of a stream that went back, and its rows are pending.
        let from = self.known.map_or(last_seq, |known| known.min(last_seq));
        let (mut known, mut renewed) = (from, false);
        while mutated!(LatePublishUnnoticed: known < last_seq => false) {
            let page = self.sink.beyond(self.log.entity(), known, MAX_ROWS_PER_ROUND).await?;
            let Some(last) = page.last() else {
                known = last_seq;
                break;
            };
            let of = |stored| Published::by(self.log.entity(), stored);
            let published: Vec<_> = page.iter().filter_map(of).collect();
            let (any, room) = self.renew(&published).await?;
            renewed |= any;
            let (_, all) = self.mark(&published).await?;
            if !all || !room {
                break;
            }
            known = last.sequence;
        }
        if renewed && from > 0 {
            self.strangers.read_again();
        }
        let all_again = self.strangers.reads_again();
        self.known = Some(if all_again { 0 } else { known });
        Ok(all_again)
    }

    /// Gives fresh versions to entities that the stream holds and the log does not have. Returns whether there were
    /// any, and whether those that have to wait for one are remembered.
    pub(super) async fn renew(&mut self, shown: &[Published]) -> Result<(bool, bool), BoxError> {
        let allowed = self.strangers.allowed();
        let renewed = mutated!(
            RestoreUnnoticed: self.log.renew(shown, allowed).await? => Renewed::default()
        );
        let Renewed { renewed, strangers, left, deferred } = renewed;
        self.strangers.made(strangers);
        let room = self.strangers.defer(deferred);
        let entity = self.log.entity();
        if renewed > strangers {
            let renewed = renewed - strangers;
            tracing::warn!(%entity, renewed, "the owner was restored from a backup: its entities get fresh versions");
        }
        if strangers > 0 {
            tracing::warn!(
                %entity,
                strangers,
                "the stream holds IDs that this owner has no record of: somebody made them up, or a restore lost \
                 them. They get tombstones"
            );
        }
        self.metrics.renewed.inc_by(renewed.saturating_sub(left));
        if left > 0 {
            // Nothing may be published over the only message that has those versions.
            self.known = Some(0);
            return Err(format!("{left} restored entities are locked by a writer").into());
        }
        Ok((renewed > 0, room))
    }
}
