//! Who is answered while more arrives than can be: a part of the listener's connections for each class of requests, and a
//! part of that for each client. Everything beyond is refused at once, before any work is done for it.
//!
//! | class | requests | sixteenths of the connections |
//! |---|---|---|
//! | – | `/livez`, `/readyz` | never refused |
//! | `operation` | metrics, `/nudge/v1/…`: the scopes `observe` and `admin` | 1 |
//! | `stream` | answers that are event streams, whatever was asked | 1 |
//! | `waiting` | `/nudge/v1/wait`, and whatever carries a `Nudge-Token`: they may take as long as a change takes to arrive | 2 |
//! | `callback` | `/sync/v1/…`: the scope `sync` | 5 |
//! | `ordinary` | everything else | 5 |
//!
//! Those that last long thus take no place of those that do not, and two sixteenths are left for those that are never refused, whatever else is going on. Clients are told apart by the subjects of
//! their tokens. Without tokens everybody is on this machine, behind one address, and only the classes are limited. An address
//! does not tell clients apart where tokens are: behind a proxy it is the proxy's. It counts only for tokens that are not good
//! (`auth/strangers.rs`).

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use nudge_protocol::write_token::WRITE_TOKEN_HEADER;
use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{connection::UntilSent, rates::Rates};
use crate::{
    Problem,
    auth::{Caller, Scope, policy::needed},
};

/// The connections are shared in so many parts.
const PARTS: usize = 16;
/// One client has at most one in so many of the requests of a class that are answered at a time.
const CLIENT_PART: usize = 2;
/// The route that answers only once a version is applied.
const WAIT: &str = "/nudge/v1/wait";
/// The media type of event streams.
const EVENT_STREAM: &[u8] = b"text/event-stream";
/// What who is refused is told to wait, in seconds.
const PAUSE_SECONDS: u16 = 1;

/// A class of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    Operation,
    Stream,
    Waiting,
    Callback,
    Ordinary,
}

impl Class {
    const ALL: [Self; 5] =
        [Self::Operation, Self::Stream, Self::Waiting, Self::Callback, Self::Ordinary];

    /// `None` for what is never refused.
    fn of(request: &Request) -> Option<Self> {
        let path = request.uri().path();
        let waits = path == WAIT || request.headers().contains_key(WRITE_TOKEN_HEADER);
        // Whether a `POST` only reads makes no difference here.
        Some(match needed(request.method(), path, &[])? {
            Scope::Observe | Scope::Admin => Self::Operation,
            Scope::Sync => Self::Callback,
            Scope::Read | Scope::Write if waits => Self::Waiting,
            Scope::Read | Scope::Write => Self::Ordinary,
        })
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Operation => "operation",
            Self::Stream => "stream",
            Self::Waiting => "waiting",
            Self::Callback => "callback",
            Self::Ordinary => "ordinary",
        }
    }

    const fn parts(self) -> usize {
        match self {
            Self::Operation | Self::Stream => 1,
            Self::Waiting => 2,
            Self::Callback | Self::Ordinary => 5,
        }
    }
}

/// See the module documentation. Cloning is cheap and shares it.
#[derive(Clone, Debug)]
pub(crate) struct Overload(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connections: usize,
    in_flight: [AtomicUsize; Class::ALL.len()],
    clients: Mutex<Clients>,
    refused: Family<[(&'static str, &'static str); 2], Counter>,
}

#[derive(Debug)]
struct Clients {
    in_flight: HashMap<(Class, String), usize>,
    /// Of requests to ordinary routes.
    rates: Option<Rates<String>>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// Too many requests of its class are being answered.
    Full,
    /// Too many of its client's are.
    Client,
    /// Its client sends more than it may.
    Rate,
    /// Its address has sent too many tokens that were not good.
    Stranger,
}

impl Refused {
    const ALL: [Self; 4] = [Self::Full, Self::Client, Self::Rate, Self::Stranger];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Client => "client",
            Self::Rate => "rate",
            Self::Stranger => "stranger",
        }
    }
}

impl Refused {
    /// To a subscriber, an owner with too many callbacks is busy, and does not fail.
    fn problem(self, class: Class) -> Problem {
        let (status, detail) = match self {
            Self::Full if class == Class::Callback => {
                (StatusCode::TOO_MANY_REQUESTS, "too many callbacks are being answered")
            }
            Self::Full => (StatusCode::SERVICE_UNAVAILABLE, "too many requests are being answered"),
            Self::Client => (
                StatusCode::TOO_MANY_REQUESTS,
                "too many requests of this client are being answered",
            ),
            Self::Rate => (StatusCode::TOO_MANY_REQUESTS, "this client sends too many requests"),
            Self::Stranger => (
                StatusCode::TOO_MANY_REQUESTS,
                "too many tokens that came from this address were not good",
            ),
        };
        Problem::new(status, detail)
            .with_header(header::RETRY_AFTER, HeaderValue::from(PAUSE_SECONDS))
    }
}

impl Overload {
    /// For a listener with so many connections.
    pub(crate) fn new(connections: usize, client_rate: Option<NonZeroU32>) -> Self {
        let refused = Family::default();
        for class in Class::ALL {
            for why in Refused::ALL {
                drop(refused.get_or_create(&labels(class, why)));
            }
        }
        let in_flight = Default::default();
        let clients =
            Clients { in_flight: HashMap::new(), rates: client_rate.map(Rates::of) }.into();
        Self(Arc::new(Inner { connections, in_flight, clients, refused }))
    }

    /// Adds its metrics to a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "nudge_http_refused",
            "Requests refused without any work, by class and by reason: too many of the class or of the client at a time, the client exceeds its rate, or its address has sent too many bad tokens; bad: a steady rise",
            self.0.refused.clone(),
        );
    }

    fn admit(&self, class: Class, client: Option<&String>) -> Result<InFlight, Refused> {
        let most = self.most(class);
        let admitted = self.0.in_flight[class as usize]
            .fetch_update(SeqCst, SeqCst, |now| (now < most).then_some(now + 1));
        // From here on it is taken back when this is dropped.
        let mut admitted = match admitted {
            Ok(_) => InFlight { overload: self.clone(), class, client: None },
            Err(_) => return Err(Refused::Full),
        };
        if let Some(client) = client {
            let mut clients = self.0.clients.lock();
            if matches!(class, Class::Ordinary | Class::Waiting) {
                clients.pay(client)?;
            }
            let held = clients.in_flight.entry((class, client.clone())).or_default();
            if *held >= (most / CLIENT_PART).max(1) {
                return Err(Refused::Client);
            }
            *held += 1;
            admitted.client = Some(client.clone());
        }
        Ok(admitted)
    }

    /// [`admit`](Self::admit), or the answer to a request that is refused.
    fn take(&self, class: Class, client: Option<&String>) -> Result<InFlight, Response> {
        self.admit(class, client).map_err(|why| self.refuse(class, why).into_response())
    }

    fn refuse(&self, class: Class, why: Refused) -> Problem {
        self.0.refused.get_or_create(&labels(class, why)).inc();
        why.problem(class)
    }

    /// What whoever has sent too many tokens that were not good is told.
    pub(crate) fn refuse_stranger(&self, request: &Request) -> Problem {
        self.refuse(Class::of(request).unwrap_or(Class::Ordinary), Refused::Stranger)
    }

    fn most(&self, class: Class) -> usize {
        (self.0.connections * class.parts() / PARTS).max(1)
    }
}

fn labels(class: Class, why: Refused) -> [(&'static str, &'static str); 2] {
    [("class", class.as_str()), ("why", why.as_str())]
}

impl Clients {
    fn pay(&mut self, client: &String) -> Result<(), Refused> {
        let Some(rates) = &mut self.rates else { return Ok(()) };
        let now = Instant::now();
        if !rates.has_left(client, now) {
            return Err(Refused::Rate);
        }
        rates.spend(client, now);
        Ok(())
    }
}

/// A request that is being answered, until its answer is sent.
#[derive(Debug)]
struct InFlight {
    overload: Overload,
    class: Class,
    client: Option<String>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.overload.0.in_flight[self.class as usize].fetch_sub(1, SeqCst);
        if let Some(client) = self.client.take() {
            let mut clients = self.overload.0.clients.lock();
            let key = (self.class, client);
            match clients.in_flight.get_mut(&key) {
                Some(held) if *held > 1 => *held -= 1,
                _ => drop(clients.in_flight.remove(&key)),
            }
        }
    }
}

/// The check before every request. Behind the one for tokens, if there is one: that says whose request it is.
pub(crate) async fn admit(
    State(overload): State<Overload>,
    request: Request,
    next: Next,
) -> Response {
    let Some(class) = Class::of(&request) else { return next.run(request).await };
    let caller = request.extensions().get::<Arc<Caller>>().cloned();
    let client = caller.as_ref().map(|caller| &caller.subject);
    let in_flight = match overload.take(class, client) {
        Ok(in_flight) => in_flight,
        Err(refusal) => return refusal,
    };
    let answer = next.run(request).await;
    let held = match is_event_stream(&answer) {
        false => in_flight,
        // From here on it takes no place of its former class.
        true => match overload.take(Class::Stream, client) {
            Ok(in_flight) => in_flight,
            Err(refusal) => return refusal,
        },
    };
    answer.map(|body| UntilSent::body(body, held))
}

fn is_event_stream(answer: &Response) -> bool {
    let kind = answer.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(EVENT_STREAM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_own_part_and_gives_it_back() {
        let overload = Overload::new(32, None);
        let take = |class| Vec::from_iter(std::iter::from_fn(|| overload.admit(class, None).ok()));
        let ordinary = take(Class::Ordinary);
        assert_eq!(overload.admit(Class::Ordinary, None).unwrap_err(), Refused::Full);
        let others = [Class::Callback, Class::Waiting, Class::Operation, Class::Stream].map(take);
        assert_eq!((ordinary.len(), others.map(|taken| taken.len())), (10, [10, 4, 2, 2]));
        drop(ordinary);
        assert_eq!(take(Class::Ordinary).len(), 10);
    }

    #[test]
    fn one_client_leaves_room_for_others_and_is_forgotten_when_it_is_gone() {
        let overload = Overload::new(16, None);
        let [kim, lee] = ["kim", "lee"].map(str::to_owned);
        let kims: Vec<_> = (0..2).map(|_| overload.admit(Class::Ordinary, Some(&kim))).collect();
        assert!(kims.iter().all(Result::is_ok));
        assert_eq!(overload.admit(Class::Ordinary, Some(&kim)).unwrap_err(), Refused::Client);
        let lees = overload.admit(Class::Ordinary, Some(&lee));
        assert!(lees.is_ok() && overload.admit(Class::Callback, Some(&kim)).is_ok());
        drop((kims, lees));
        assert!(overload.0.clients.lock().in_flight.is_empty());
        assert_eq!(overload.0.in_flight[Class::Ordinary as usize].load(SeqCst), 0);
    }

    #[test]
    fn a_clients_rate_is_its_own_and_only_for_ordinary_requests() {
        let overload = Overload::new(1_024, NonZeroU32::new(1));
        let asks = |class, client: &str| overload.admit(class, Some(&client.to_owned())).map(drop);
        let granted = (0..10).filter(|_| asks(Class::Ordinary, "kim").is_ok()).count();
        // What it saved up, and the one that is due.
        assert!((1..=2).contains(&granted), "{granted}");
        assert_eq!(asks(Class::Ordinary, "kim"), Err(Refused::Rate));
        assert_eq!(asks(Class::Waiting, "kim"), Err(Refused::Rate));
        assert_eq!(asks(Class::Ordinary, "lee"), Ok(()));
        assert_eq!(asks(Class::Callback, "kim"), Ok(()));
    }
}
