//! The owner's budget: how many entities a second all subscribers together may ask for, and who of them is next.
//!
//! | module | what it does |
//! |---|---|
//! | `turns` | shares the budget between subscribers, pure |
//! | `replicas` | counts the owner's replicas, which share it |
//!
//! A callback that exceeds the budget waits here for its turn, for at most [`MAX_WAIT`], and is then refused with 429 and
//! `Retry-After`. Without a budget nothing waits, and what each subscriber asks for is counted all the same.

mod replicas;
mod turns;

use std::{convert::Infallible, num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponseParts, ResponseParts},
};
use nudge_protocol::{
    EntityName,
    sync_api::{
        LANE_HEADER, Lane, MAX_SUBSCRIBER_BYTES, SUBSCRIBER_HEADER, WAITED_HEADER,
        is_subscriber_name, subscriber_name, waited_value,
    },
};
use nudge_runtime::{Database, Problem, auth::Caller};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

pub use turns::{MAX_SUBSCRIBERS, MAX_WAITING};
use turns::{Taken, Turns};

/// Longest time for which a callback waits for its turn. Subscribers wait longer than this for an answer.
pub const MAX_WAIT: Duration = Duration::from_secs(2);
/// Rows of the change log that cost as much as one entity: they are short, and neither looked up one by one nor followed by
/// a state.
pub const ROWS_PER_ENTITY: usize = 100;
/// Below this part of it for each replica, in entities a second, a budget is so small that a turn of a single entity takes
/// longer than turns should. Everything still comes to its end, but few callbacks can wait for their turn.
pub const SMALL_BUDGET: f64 = 20.0;
/// Who names no subscriber. No subscriber can be called that.
const UNNAMED: &str = "(unnamed)";

/// See the module documentation. Cloning is cheap and shares it.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    turns: Turns<oneshot::Sender<usize>>,
    /// For all replicas.
    per_second: Option<NonZeroU32>,
    /// Whether a task gives turns: only while somebody waits.
    is_driven: bool,
}

impl Default for Budget {
    fn default() -> Self {
        let turns = Turns::new(|who: &oneshot::Sender<usize>| !who.is_closed(), now());
        Self(Arc::new(Mutex::new(State { turns, per_second: None, is_driven: false })))
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl Budget {
    /// Sets how many entities may be asked for each second, of all replicas together.
    pub(crate) fn limit(&self, per_second: Option<NonZeroU32>) {
        self.0.lock().per_second = per_second;
        self.shared_by(1);
    }

    /// So many replicas share it.
    fn shared_by(&self, replicas: usize) {
        let mut state = self.0.lock();
        let part = state.per_second.map(|all| f64::from(all.get()) / replicas as f64);
        let before = state.turns.per_second();
        state.turns.limit(part);
        let is_small = |part: Option<f64>| part.is_some_and(|part| part < SMALL_BUDGET);
        if is_small(part) && !is_small(before) {
            tracing::warn!(
                budget = part,
                replicas,
                "the owner's budget is so small that most callbacks have to wait for it"
            );
        }
    }

    /// Rows of lists and digests that one turn pays for.
    pub(crate) fn rows_at_a_time(&self) -> usize {
        self.0.lock().turns.at_a_time(usize::MAX).saturating_mul(ROWS_PER_ENTITY)
    }

    /// Counts the owner's replicas until `stop`, if there is a budget to be shared.
    pub(crate) async fn count_replicas(
        &self,
        db: &Database,
        entity: &EntityName,
        stop: CancellationToken,
    ) {
        if self.0.lock().per_second.is_some() {
            let name = uuid::Uuid::new_v4().to_string();
            replicas::Replica::new(db.clone(), entity.clone(), name).run(self.clone(), stop).await;
        }
    }

    /// Waits for the asker's turn. It may be granted fewer entities than it asks for, but never none.
    pub(crate) async fn turn(&self, asker: &Asker, entities: usize) -> Result<Turn, Problem> {
        let (name, lane, began) = (&*asker.name, asker.lane, Instant::now());
        let turn = {
            let mut state = self.0.lock();
            if let Some(granted) = state.turns.ask(name, lane, entities, now()) {
                return Ok(Turn { granted, waited: Duration::ZERO });
            }
            let (sender, turn) = oneshot::channel();
            // Who is refused learns it because its sender is dropped.
            drop(state.turns.wait(name, lane, entities, sender, now()));
            if !std::mem::replace(&mut state.is_driven, true) {
                tokio::spawn(self.clone().drive());
            }
            turn
        };
        match tokio::time::timeout(MAX_WAIT, turn).await {
            Ok(Ok(granted)) => Ok(Turn { granted, waited: began.elapsed() }),
            _ => Err(self.refuse(asker, began.elapsed())),
        }
    }

    /// [`turn`](Self::turn) for what is granted as a whole, even if it is more than the budget of a second.
    pub(crate) async fn whole_turn(&self, asker: &Asker, entities: usize) -> Result<Turn, Problem> {
        let turn = self.turn(asker, entities).await?;
        self.charge(asker, entities.saturating_sub(turn.granted));
        Ok(turn)
    }

    /// What was answered cost so many entities more than was known before.
    pub(crate) fn charge(&self, asker: &Asker, entities: usize) {
        if entities > 0 {
            self.0.lock().turns.charge(&asker.name, asker.lane, entities, now());
        }
    }

    /// Says in [`WAITED_HEADER`], too, that turns are given here: this call has none, and the subscriber's others that wait
    /// keep theirs.
    fn refuse(&self, Asker { name, lane }: &Asker, waited: Duration) -> Problem {
        let seconds = self.0.lock().turns.refuse(name, *lane, now());
        let detail = "all subscribers together ask for more than the owner's budget";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
            .with_header(header::RETRY_AFTER, HeaderValue::from(seconds));
        match waited_header(waited) {
            Some((name, waited)) => problem.with_header(name, waited),
            None => problem,
        }
    }

    /// Gives turns until nobody waits for one.
    async fn drive(self) {
        loop {
            let due = {
                let mut state = self.0.lock();
                while let Some((who, granted)) = state.turns.next(now()) {
                    let _ = who.send(granted);
                }
                match state.turns.due() {
                    Some(due) => due,
                    None => {
                        state.is_driven = false;
                        return;
                    }
                }
            };
            tokio::time::sleep_until(due.into()).await;
        }
    }

    /// Adds what each subscriber takes to a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Shown(self.clone())));
    }
}

/// The turn of a callback. With an answer, it says how long that waited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// Entities that it may ask for.
    pub(crate) granted: usize,
    waited: Duration,
}

impl IntoResponseParts for Turn {
    type Error = Infallible;

    fn into_response_parts(self, mut answer: ResponseParts) -> Result<ResponseParts, Infallible> {
        if !self.waited.is_zero()
            && let Some((name, waited)) = waited_header(self.waited)
        {
            answer.headers_mut().insert(name, waited);
        }
        Ok(answer)
    }
}

/// Says how long a callback waited for its turn.
fn waited_header(waited: Duration) -> Option<(HeaderName, HeaderValue)> {
    let value = HeaderValue::try_from(waited_value(waited)).ok()?;
    Some((HeaderName::from_static(WAITED_HEADER), value))
}

/// [`Budget`] in `/metrics`: at most [`MAX_SUBSCRIBERS`] are told apart.
#[derive(Debug)]
struct Shown(Budget);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (taken, budget, waiting) = {
            let turns = &self.0.0.lock().turns;
            let own = |(name, lane, taken): (&str, Lane, Taken)| (name.to_owned(), lane, taken);
            let taken: Vec<_> = turns.taken().map(own).collect();
            (taken, turns.per_second().unwrap_or(0.0), turns.waiting())
        };
        for (name, help, gauge) in [
            (
                "nudge_owner_budget",
                "Entities a second that subscribers may ask this replica for; 0: without limit",
                ConstGauge::new(budget),
            ),
            (
                "nudge_owner_budget_waiting",
                "Callbacks that wait for their turn; bad: above 0 for long: subscribers need more than the budget",
                ConstGauge::new(waiting as f64),
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        type Part = fn(&Taken) -> u64;
        let parts: [(&str, &str, Part); 3] = [
            (
                "nudge_owner_asked",
                "Entities that subscribers asked for and were granted; 100 rows of lists and digests count as one",
                |taken| taken.entities,
            ),
            ("nudge_owner_waited", "Callbacks that had to wait for their turn", |taken| {
                taken.waited
            }),
            (
                "nudge_owner_refused",
                "Callbacks that were told to come again later, because of the budget; bad: a steady rise in the lane fresh: the budget is too small for the changes",
                |taken| taken.refused,
            ),
        ];
        for (name, help, part) in parts {
            let kind = ConstCounter::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (subscriber, lane, taken) in &taken {
                let labels = [("subscriber", &**subscriber), ("lane", lane.as_str())];
                ConstCounter::new(part(taken)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Who asks, and for what: the subject of its token where there are tokens, otherwise what it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    name: String,
    lane: Lane,
}

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let name = match parts.extensions.get::<Arc<Caller>>() {
            Some(caller) if caller.subject.is_empty() => UNNAMED.to_owned(),
            Some(caller) => subscriber_name(&caller.subject),
            None => named(&parts.headers)?,
        };
        let lane = parts.headers.get(LANE_HEADER).map(HeaderValue::as_bytes);
        let lane = Lane::ALL.into_iter().find(|known| lane == Some(known.as_str().as_bytes()));
        Ok(Self { name, lane: lane.unwrap_or(Lane::Backlog) })
    }
}

/// What a request says of who sends it.
fn named(headers: &HeaderMap) -> Result<String, Problem> {
    let Some(name) = headers.get(SUBSCRIBER_HEADER) else { return Ok(UNNAMED.to_owned()) };
    let name = name.to_str().ok().filter(|name| is_subscriber_name(name));
    name.map(str::to_owned).ok_or_else(|| {
        let detail =
            format!("must be 1 to {MAX_SUBSCRIBER_BYTES} of the characters A-Z a-z 0-9 . _ ~ % -");
        Problem::parameter("Nudge-Subscriber", detail)
    })
}

/// The headers of [`Asker`], for the document.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only for the document; the code reads the headers")]
pub(crate) struct AskerHeaders {
    /// The subscriber that asks, percent-encoded. Where tokens are needed, the token says it.
    #[param(
        rename = "Nudge-Subscriber",
        nullable = false,
        max_length = 100,
        pattern = "^[A-Za-z0-9._~%-]+$"
    )]
    subscriber: Option<String>,
    /// `fresh` for notifications that were just published; everything else is backlog, and comes later where the owner has
    /// a budget.
    #[param(rename = "Nudge-Lane", nullable = false)]
    lane: Option<String>,
}

#[cfg(test)]
#[path = "budget/tests.rs"]
mod tests;
