//! What there is: each service, whether it is ready, what it owns and follows, and how it is.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use futures_util::future;
use nudge_protocol::{
    EntityName, Timestamp,
    admin::{BreakerState, EntityStatus, Status},
};
use reqwest::Method;
use serde::Serialize;

use super::Console;
use crate::{
    chaos::drawer::{self, Drawer},
    commands::audit::consistency,
    peers::Peer,
    roles::{self, OwnerStatus, metric},
};

/// Longest wait for one answer of a service. One that takes longer counts as away.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest error that is shown, in characters.
pub(super) const MAX_ERROR_CHARS: usize = 300;
/// What NATS is called among the parts.
pub(super) const NATS: &str = "NATS";

/// Whether one part runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PartState {
    pub(crate) name: &'static str,
    pub(crate) ready: bool,
    /// Whether it belongs to the demo; others are only shown.
    pub(super) of_the_demo: bool,
    /// How often `nudge dev` has started it again.
    pub(super) restarts: u64,
}

impl PartState {
    /// Whether the demo is not ready because of it.
    pub(crate) fn is_missing(&self) -> bool {
        self.of_the_demo && !self.ready
    }
}

/// One look at everything.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct View {
    /// NATS, if it is known where it is, and the services.
    pub(super) parts: Vec<PartState>,
    pub(super) services: Vec<ServiceView>,
    /// What is broken on purpose, if anything can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) chaos: Option<drawer::Shown>,
}

/// A service.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ServiceView {
    #[serde(skip)]
    pub(super) peer: Peer,
    pub(super) name: &'static str,
    pub(super) url: &'static str,
    /// Whether it said what it is. Otherwise `owns` and `follows` are what is known of the demo's services.
    pub(super) answers: bool,
    pub(super) owns: Vec<Owned>,
    pub(super) follows: Vec<Followed>,
    /// Whether it follows something, or might: nobody else could know of one that does not answer.
    pub(super) is_subscriber: bool,
}

/// What a service owns.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Owned {
    #[serde(flatten)]
    pub(super) relay: OwnerStatus,
    /// Notifications published per second, lately.
    pub(super) published_per_second: Option<f64>,
}

/// How a subscriber is with one kind of entity.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Followed {
    pub(super) entity: String,
    pub(super) applied: u64,
    pub(super) lag_ms: Option<f64>,
    pub(super) queued: i64,
    pub(super) processing: i64,
    pub(super) retrying: i64,
    pub(super) parked: u64,
    pub(super) dead_letters: u64,
    pub(super) breaker: Option<BreakerState>,
    pub(super) paused: bool,
    pub(super) connected: Option<bool>,
    pub(super) caught_up: bool,
    /// Messages of the stream that it has not received.
    pub(super) stream_pending: Option<i64>,
    pub(super) last_error: Option<String>,
    pub(super) totals: Totals,
    /// What flowed per second, lately.
    pub(super) per_second: Option<PerSecond>,
    pub(super) comparison: Option<Comparison>,
}

/// Counters since the start of a subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Totals {
    pub(super) received: u64,
    pub(super) callbacks: u64,
    pub(super) fetched: u64,
    pub(super) applied: u64,
}

/// The same per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct PerSecond {
    pub(super) received: f64,
    pub(super) callbacks: f64,
    pub(super) fetched: f64,
    pub(super) applied: f64,
}

/// What comparing with the owner has shown.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Comparison {
    /// Whether it compares now.
    pub(super) running: bool,
    pub(super) waits_for: Option<String>,
    /// The beginning and the end of the last comparison of all versions, how many it compared, and how many differed.
    pub(super) began_at: Option<Timestamp>,
    pub(super) ended_at: Option<Timestamp>,
    pub(super) compared: u64,
    pub(super) differed: u64,
    /// Rows that somebody had edited in its tables, found by the last pass over their contents.
    pub(super) edited: u64,
    /// How consistent it has been, in words.
    pub(super) consistency: Vec<String>,
}

impl Console {
    /// Checks every part now.
    pub(crate) async fn look(&self) -> Vec<PartState> {
        let services = self.newcomer.peers().iter().map(|&peer| async move {
            let request = self.newcomer.long_request(Method::GET, peer, "/readyz");
            let answer = self.newcomer.expect(peer, request.timeout(LOOK_TIMEOUT)).await;
            (peer.name(), answer.is_ok(), peer.demo().is_some())
        });
        let nats = async {
            let broker = self.broker.as_ref()?;
            Some((NATS, nudge_testbed::nats::is_ready(broker).await, true))
        };
        let (nats, services) = future::join(nats, future::join_all(services)).await;
        let restarts = |name| self.restarts.get(name).map_or(0, |restarts| restarts.load(Relaxed));
        let state = |(name, ready, of_the_demo)| PartState {
            name,
            ready,
            of_the_demo,
            restarts: restarts(name),
        };
        nats.into_iter().chain(services).map(state).collect()
    }

    /// Asks every service what it is and how it is.
    pub(super) async fn view(&self) -> View {
        let services = self.api.peers().iter().map(|&peer| self.service(peer));
        let (parts, services) = future::join(self.look(), future::join_all(services)).await;
        let chaos = self.drawer.as_ref().map(Drawer::shown);
        View { parts, services, chaos }
    }

    async fn service(&self, peer: Peer) -> ServiceView {
        let asked = future::join(roles::metrics(&self.api, peer), roles::followed(&self.api, peer));
        let asked = tokio::time::timeout(LOOK_TIMEOUT, asked).await;
        let (name, url) = (peer.name(), peer.url());
        let Ok((Ok(metrics), Ok(status))) = asked else {
            let demo = peer.demo();
            let owned = demo.and_then(|service| service.owns()).map(Owned::unknown);
            let followed = demo.into_iter().flat_map(|service| service.follows());
            let followed = followed.filter_map(|owner| owner.owns());
            let follows =
                followed.map(|entity| Followed { entity: entity.into(), ..Followed::default() });
            let (owns, follows) = (owned.into_iter().flatten().collect(), follows.collect());
            let is_subscriber = !roles::follows_nothing(peer);
            return ServiceView { peer, name, url, answers: false, owns, follows, is_subscriber };
        };
        let metrics = metrics.unwrap_or_default();
        let owned = |relay| Owned { relay, published_per_second: None };
        ServiceView {
            peer,
            name,
            url,
            answers: true,
            owns: roles::relays(&metrics).into_iter().map(owned).collect(),
            is_subscriber: status.is_some(),
            follows: status.map_or_else(Vec::new, |status| followed(&status, &metrics)),
        }
    }
}

impl Owned {
    /// That of a service that does not answer.
    fn unknown(entity: &str) -> Option<Self> {
        let entity = EntityName::new(entity).ok()?;
        let relay = OwnerStatus::unknown(entity);
        Some(Self { relay, published_per_second: None })
    }
}

fn followed(status: &Status, metrics: &str) -> Vec<Followed> {
    let one = |entity: &EntityStatus| Followed::new(entity, status.paused, metrics);
    status.entities.iter().map(one).collect()
}

impl Followed {
    fn new(status: &EntityStatus, paused: bool, metrics: &str) -> Self {
        let entity = status.entity.as_str();
        let total = |name| metric(metrics, name, entity).unwrap_or_default();
        Self {
            entity: entity.to_owned(),
            applied: status.applied,
            lag_ms: status.lag_seconds.map(|seconds| seconds * 1e3),
            queued: status.queued,
            processing: status.processing,
            retrying: status.retrying,
            parked: status.parked,
            dead_letters: status.dead_letters,
            breaker: status.breaker,
            paused: paused || status.paused,
            connected: status.connected,
            caught_up: status.caught_up,
            stream_pending: status.stream_pending,
            last_error: status.last_error.as_deref().map(shortened),
            totals: Totals {
                received: total("nudge_received_total"),
                callbacks: total("nudge_callbacks_total"),
                fetched: total("nudge_fetched_total"),
                applied: total("nudge_applied_total"),
            },
            per_second: None,
            comparison: status.resync.as_ref().map(|resync| Comparison {
                running: resync.current.is_some(),
                waits_for: resync.waits_for.clone(),
                began_at: resync.last.as_ref().map(|last| last.began_at),
                ended_at: resync.last.as_ref().and_then(|last| last.ended_at),
                compared: resync.last.as_ref().map_or(0, |last| last.compared),
                differed: resync.last.as_ref().map_or(0, |last| last.differences.sum()),
                edited: resync.contents.last.as_ref().map_or(0, |last| last.altered + last.strays),
                consistency: consistency(&resync.audit, nudge_runtime::clock::now()),
            }),
        }
    }
}

/// At most [`MAX_ERROR_CHARS`] of an error.
pub(super) fn shortened(error: &str) -> String {
    error.chars().take(MAX_ERROR_CHARS).collect()
}
