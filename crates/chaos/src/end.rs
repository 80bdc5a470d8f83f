//! What must hold at the end: everyone is in step and stays so, and nothing is left to do.

use std::{collections::BTreeSet, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use serde_json::Value;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use crate::{profile::Profile, run::Theatre, service::Service, world::lock};

/// Time until everyone must be in step once all is healed. Virtual: it costs nothing.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// Time that what is still on its way gets, longer than an acknowledgement may take; and as long
/// again, in which silence is demanded.
const SILENCE: Duration = Duration::from_secs(40);
/// Time after which everyone must still be in step.
const MOMENT: Duration = Duration::from_secs(2);
/// Largest answer of a subscriber to how it is, in bytes.
const MAX_STATUS_BYTES: usize = 1 << 20;

impl<S: Service> Theatre<S> {
    /// Waits until everyone is in step, leaving some ids out.
    pub(crate) async fn in_step(&self, except: &BTreeSet<String>) {
        let began = self.world.elapsed();
        while let Some(difference) = self.differs(except) {
            if self.world.is_violated() {
                return;
            }
            if self.world.elapsed() > began + PATIENCE {
                return self.world.violated(format!("never in step: {difference}"));
            }
            sleep(Duration::from_secs(1)).await;
        }
        self.world.tell(format!("in step after {:?}", self.world.elapsed() - began));
    }

    pub(crate) async fn stays_in_step(&self) {
        if self.world.profile() == Profile::Liveness {
            self.silence().await;
        } else {
            sleep(MOMENT).await;
        }
        if let Some(difference) = self.differs(&BTreeSet::new()) {
            self.world.violated(format!("out of step again: {difference}"));
        }
    }

    /// What is not in step: the read model, or the stream, in which the newest version of each entity
    /// must stand for whoever comes next.
    fn differs(&self, except: &BTreeSet<String>) -> Option<String> {
        if let Some(difference) = self.read_model.differs(except) {
            return Some(difference);
        }
        let history = lock(&self.history);
        history.newest().find_map(|(id, newest)| {
            let version = newest.map_or(0, |newest| newest.version);
            let subject = self.subject(id);
            let shown =
                self.world.with_broker(|broker| broker.version_on(&subject).map(str::to_owned));
            (shown != Some(version.to_string()))
                .then(|| format!("the stream shows {id}@{shown:?}; its owner is at {version}"))
        })
    }

    /// Waits until nothing is left to do.
    pub(crate) async fn nothing_is_left(&self) {
        let began = self.world.elapsed();
        while let Some(left) = self.left().await {
            if self.world.is_violated() {
                return;
            }
            if self.world.elapsed() > began + PATIENCE {
                return self.world.violated(format!("never at rest: {left}"));
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// What is left to do, if anything: for the relay, for the broker, or for a subscriber.
    async fn left(&self) -> Option<String> {
        if self.owner_has_pending().await {
            return Some("changes are not published".to_owned());
        }
        let sql = "SELECT consumer FROM nudge_intake WHERE entity = $1";
        let looking =
            sqlx::query_as(sql).bind(S::ENTITY).fetch_optional(self.read_model.db.reader());
        let row: Option<(String,)> = self.read_model.db.run(looking).await.ok().flatten();
        let Some((consumer,)) = row else {
            return Some("the subscriber has no consumer".to_owned());
        };
        let standing = self.world.with_broker(|broker| broker.unacknowledged(&consumer));
        if standing > 0 {
            return Some(format!("{standing} messages are not acknowledged"));
        }
        let subscribers = lock(&self.subscribers).clone();
        for (name, (node, subscriber)) in subscribers {
            if node.is_dead() {
                return Some(format!("{name} has ended"));
            }
            let status = Request::get("/nudge/v1/status").body(Body::empty()).expect("a request");
            let asked = timeout(PATIENCE, subscriber.router().oneshot(status)).await;
            let Ok(Ok(answer)) = asked else {
                return Some(format!("{name} does not say how it is"));
            };
            let body = to_bytes(answer.into_body(), MAX_STATUS_BYTES).await.unwrap_or_default();
            let status: Value = serde_json::from_slice(&body).unwrap_or_default();
            for figure in ["queued", "processing", "retrying", "parked", "dead_letters"] {
                let figures = &status["entities"][0][figure];
                if figures.as_u64() != Some(0) {
                    return Some(format!("{name} has {figures} keys {figure}"));
                }
            }
        }
        None
    }

    /// Nothing is left to do: no message, no call.
    async fn silence(&self) {
        sleep(SILENCE).await;
        let calls = self.world.calls();
        sleep(SILENCE).await;
        if self.world.calls() != calls {
            self.world.violated("calls go on though nothing changes");
        }
        if let Some(left) = self.left().await {
            self.world.violated(format!("not silent: {left}"));
        }
    }
}
