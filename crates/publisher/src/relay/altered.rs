//! A stream that was altered at the broker is restored, or the difference is named.

use nudge_runtime::{BoxError, problem::chain};
use tokio::time::Instant;

use super::{Relay, again::Again};
use crate::sink::{Altered, StreamInfo};

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Altering {
    /// Two parties that want it different must not alter it back all the time.
    mends: Again,
    /// The same for several messages of one subject, which no other mend may have to wait for.
    thins: Again,
    /// What the stream was seen to lose by last, whoever restores it.
    loses: Option<String>,
    /// The difference that could not be restored and was logged.
    said: Option<Altered>,
    /// Whether it may have lost acknowledged messages, in a way that has now ended or is another one.
    pub(super) lost: bool,
}

impl Altering {
    /// Takes note of every difference as soon as it is seen: the check that restores it may be cut off by a new
    /// connection, and another relay or an operator may be the one who restores it.
    fn see(&mut self, now: &StreamInfo) {
        let loses = now.altered.as_ref().and_then(|altered| altered.loses.clone());
        let before = std::mem::replace(&mut self.loses, loses);
        self.lost |= before.is_some() && before != self.loses;
    }
}

impl Relay {
    /// Checks the stream, and creates it if it is missing. If others have altered it, it is restored first,
    /// at once or, if they do so repeatedly, less and less often. What cannot be restored is named, and work
    /// goes on.
    pub(super) async fn look_at_stream(&mut self) -> Result<StreamInfo, BoxError> {
        let mut now = self.sink.ensure(self.log.entity()).await?;
        self.altering.see(&now);
        let mut refused = None;
        if let Some(altered) = &now.altered
            && self.altering.mends.is_due(Instant::now())
        {
            let entity = self.log.entity();
            if self.altering.said.as_ref() != Some(altered) {
                let altered = &*altered.what;
                tracing::warn!(%entity, altered, "the stream was altered at the broker: altering it back");
            }
            let mended = self.sink.mend(entity).await;
            // Not before: a new connection may have cut it off, and it must not wait then.
            self.altering.mends.done(Instant::now());
            refused = match mended {
                Ok(None) => {
                    self.metrics.mended.inc();
                    None
                }
                Ok(refused) => refused,
                Err(error) => Some(chain(&*error).to_string()),
            };
            now = self.sink.ensure(entity).await?;
            self.altering.see(&now);
        }
        if now.altered.is_none() && now.doubled && self.altering.thins.is_due(Instant::now()) {
            let entity = self.log.entity();
            tracing::warn!(%entity, "the stream holds several messages of one subject: making the server look for them");
            let thinned = self.sink.mend(entity).await;
            self.altering.thins.done(Instant::now());
            if let Some(refused) = thinned? {
                tracing::warn!(%entity, refused, "the stream still holds several messages of one subject");
            }
            now = self.sink.ensure(entity).await?;
            self.altering.see(&now);
        }
        self.name_altered(&now, refused.as_deref());
        Ok(now)
    }

    /// One log line for each alteration that stays, not one at each check.
    fn name_altered(&mut self, now: &StreamInfo, refused: Option<&str>) {
        self.metrics.altered.set(i64::from(now.altered.is_some() || now.doubled));
        let entity = self.log.entity();
        if let Some(altered) = &now.altered
            && self.altering.said != now.altered
        {
            let (altered, why) = (&*altered.what, refused.unwrap_or("it was altered again"));
            tracing::warn!(%entity, altered, why, "the stream stays altered");
        }
        self.altering.said.clone_from(&now.altered);
    }
}
