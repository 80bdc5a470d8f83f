//! Who is answered while more arrives than can be: a part of the listener's connections for each class of requests, and a
//! part of that for each client. Everything beyond is refused at once, before any work is done for it.
//!
//! | class | requests | part of the connections |
//! |---|---|---|
//! | – | `/livez`, `/readyz` | never refused |
//! | `operation` | metrics, `/nudge/v1/…`: the scopes `observe` and `admin` | an eighth |
//! | `callback` | `/sync/v1/…`: the scope `sync` | three eighths |
//! | `ordinary` | everything else | three eighths |
//!
//! So an eighth is left for those that are never refused, whatever else is going on. Clients are told apart by the subjects of
//! their tokens. Without tokens everybody is on this machine, behind one address, and only the classes are limited. An address
//! tells nothing where tokens are: behind a proxy it is the proxy's.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::connection::UntilSent;
use crate::{
    Problem,
    auth::{Caller, Scope, policy::needed},
};

/// The connections are shared in so many parts.
const PARTS: usize = 8;
/// One client has at most one in so many of the requests of a class that are answered at a time.
const CLIENT_PART: usize = 2;
/// What who is refused is told to wait, in seconds.
const PAUSE_SECONDS: u16 = 1;
/// A client's rate may be exceeded by what it allows in so much time.
const BURST: Duration = Duration::from_secs(1);
/// Clients that are told apart by their rates. Beyond it, the others share one rate.
const MAX_CLIENTS: usize = 4_096;

/// A class of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    Operation,
    Callback,
    Ordinary,
}

impl Class {
    const ALL: [Self; 3] = [Self::Operation, Self::Callback, Self::Ordinary];

    /// `None` for what is never refused.
    fn of(request: &Request) -> Option<Self> {
        // Whether a `POST` only reads makes no difference here.
        Some(match needed(request.method(), request.uri().path(), &[])? {
            Scope::Observe | Scope::Admin => Self::Operation,
            Scope::Sync => Self::Callback,
            Scope::Read | Scope::Write => Self::Ordinary,
        })
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Operation => "operation",
            Self::Callback => "callback",
            Self::Ordinary => "ordinary",
        }
    }

    const fn parts(self) -> usize {
        match self {
            Self::Operation => 1,
            Self::Callback | Self::Ordinary => 3,
        }
    }
}

/// See the module documentation. Cloning is cheap and shares it.
#[derive(Clone, Debug)]
pub(crate) struct Overload(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connections: usize,
    /// Requests a second of one client, to ordinary routes.
    client_rate: Option<NonZeroU32>,
    in_flight: [AtomicUsize; Class::ALL.len()],
    clients: Mutex<Clients>,
    refused: Family<[(&'static str, &'static str); 2], Counter>,
}

#[derive(Debug, Default)]
struct Clients {
    in_flight: HashMap<(Class, String), usize>,
    /// Until when each has used up its rate.
    used_until: HashMap<String, Instant>,
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
}

impl Refused {
    const ALL: [Self; 3] = [Self::Full, Self::Client, Self::Rate];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Client => "client",
            Self::Rate => "rate",
        }
    }
}

impl Refused {
    /// To a subscriber, an owner with too many callbacks is busy, and does not fail.
    fn answer(self, class: Class) -> Response {
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
        };
        Problem::new(status, detail)
            .with_header(header::RETRY_AFTER, HeaderValue::from(PAUSE_SECONDS))
            .into_response()
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
        let (in_flight, clients) = Default::default();
        Self(Arc::new(Inner { connections, client_rate, in_flight, clients, refused }))
    }

    /// Adds its metrics to a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "nudge_http_refused",
            "Requests refused without any work, by class and by reason: too many of the class or of the client at a time, or the client exceeds its rate; bad: a steady rise",
            self.0.refused.clone(),
        );
    }

    fn admit(&self, class: Class, client: Option<&str>) -> Result<InFlight, Refused> {
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
            if class == Class::Ordinary {
                clients.pay(client, self.0.client_rate)?;
            }
            let held = clients.in_flight.entry((class, client.to_owned())).or_default();
            if *held >= (most / CLIENT_PART).max(1) {
                return Err(Refused::Client);
            }
            *held += 1;
            admitted.client = Some(client.to_owned());
        }
        Ok(admitted)
    }

    fn most(&self, class: Class) -> usize {
        (self.0.connections * class.parts() / PARTS).max(1)
    }
}

fn labels(class: Class, why: Refused) -> [(&'static str, &'static str); 2] {
    [("class", class.as_str()), ("why", why.as_str())]
}

impl Clients {
    fn pay(&mut self, client: &str, rate: Option<NonZeroU32>) -> Result<(), Refused> {
        let Some(rate) = rate else { return Ok(()) };
        let now = Instant::now();
        if self.used_until.len() >= MAX_CLIENTS && !self.used_until.contains_key(client) {
            self.used_until.retain(|_, until| *until > now);
        }
        let is_full = self.used_until.len() >= MAX_CLIENTS;
        let known = if is_full && !self.used_until.contains_key(client) { "" } else { client };
        let unused = now.checked_sub(BURST).unwrap_or(now);
        let until = self.used_until.entry(known.to_owned()).or_insert(unused);
        if *until > now {
            return Err(Refused::Rate);
        }
        *until = (*until).max(unused) + Duration::from_secs(1) / rate.get();
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
    let caller = request.extensions().get::<Arc<Caller>>();
    let client = caller.map(|caller| &*caller.subject);
    match overload.admit(class, client) {
        Ok(in_flight) => next.run(request).await.map(|body| UntilSent::body(body, in_flight)),
        Err(why) => {
            overload.0.refused.get_or_create(&labels(class, why)).inc();
            why.answer(class)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_own_part_and_gives_it_back() {
        let overload = Overload::new(16, None);
        let take = |class| Vec::from_iter(std::iter::from_fn(|| overload.admit(class, None).ok()));
        let ordinary = take(Class::Ordinary);
        assert_eq!(overload.admit(Class::Ordinary, None).unwrap_err(), Refused::Full);
        let (callbacks, operations) = (take(Class::Callback), take(Class::Operation));
        assert_eq!((ordinary.len(), callbacks.len(), operations.len()), (6, 6, 2));
        drop(ordinary);
        assert_eq!(take(Class::Ordinary).len(), 6);
    }

    #[test]
    fn one_client_leaves_room_for_others_and_is_forgotten_when_it_is_gone() {
        let overload = Overload::new(16, None);
        let kim: Vec<_> = (0..3).map(|_| overload.admit(Class::Ordinary, Some("kim"))).collect();
        assert!(kim.iter().all(Result::is_ok));
        assert_eq!(overload.admit(Class::Ordinary, Some("kim")).unwrap_err(), Refused::Client);
        let lee = overload.admit(Class::Ordinary, Some("lee"));
        assert!(lee.is_ok() && overload.admit(Class::Callback, Some("kim")).is_ok());
        drop((kim, lee));
        assert!(overload.0.clients.lock().in_flight.is_empty());
        assert_eq!(overload.0.in_flight[Class::Ordinary as usize].load(SeqCst), 0);
    }

    #[test]
    fn a_clients_rate_is_its_own_and_only_for_ordinary_requests() {
        let overload = Overload::new(1_024, NonZeroU32::new(1));
        let asks = |class, client| overload.admit(class, Some(client)).map(drop);
        let granted = (0..10).filter(|_| asks(Class::Ordinary, "kim").is_ok()).count();
        // What it saved up, and the one that is due.
        assert!((1..=2).contains(&granted), "{granted}");
        assert_eq!(asks(Class::Ordinary, "kim"), Err(Refused::Rate));
        assert_eq!(asks(Class::Ordinary, "lee"), Ok(()));
        assert_eq!(asks(Class::Callback, "kim"), Ok(()));
    }

    #[test]
    fn however_many_clients_there_are_their_number_in_memory_is_bounded() {
        let overload = Overload::new(1_024, NonZeroU32::new(1));
        for n in 0..3 * MAX_CLIENTS {
            for _ in 0..2 {
                let _ = overload.admit(Class::Ordinary, Some(&n.to_string()));
            }
        }
        let clients = overload.0.clients.lock();
        assert!(clients.used_until.len() <= MAX_CLIENTS + 1, "{}", clients.used_until.len());
        assert!(clients.in_flight.is_empty());
    }
}
