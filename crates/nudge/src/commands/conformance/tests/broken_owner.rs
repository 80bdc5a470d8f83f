//! A small owner of `thing`s in memory, with one switch for each fault.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_nats::{HeaderMap, jetstream::stream};
use axum::{
    Router,
    body::to_bytes,
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use nudge_protocol::{
    EntityId, EntityName, Timestamp, Version,
    digest::{Digest, RangeRow},
    subject,
};
use nudge_runtime::{Broker, Problem, clock};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

/// How long a slow owner takes, so that others get in between.
const MOMENT: Duration = Duration::from_millis(3);
/// How long a write is held back for one that never comes: the last of several.
const MOST_HELD: Duration = Duration::from_secs(1);

/// A way to break the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    NoVersion,
    Twice,
    UnknownIsDeleted,
    Cached,
    GoneIsMissing,
    Disagrees,
    ByLength,
    NextIsFirst,
    NoProbe,
    Unbounded,
    Hungry,
    PlainErrors,
    WordsAreCalls,
    NotDecoded,
    Forgets,
    HidesDeleted,
    StartsAnew,
    EarlyVersion,
    LateState,
    TwoSnapshots,
    ByOffset,
    MaxAge,
    LowerCase,
    Data,
    MessageId,
    OldVersion,
    SilentDeletion,
    WrongDigest,
}

#[derive(Clone)]
struct Thing {
    version: u64,
    /// None if it is deleted.
    state: Option<Value>,
}

struct Inner {
    fault: Fault,
    broker: Option<Broker>,
    things: Mutex<BTreeMap<String, Thing>>,
    /// Where a page by offset goes on, by its `next`.
    offsets: Mutex<HashMap<String, usize>>,
    /// How many write now.
    writing: AtomicUsize,
    /// Whether one of them is held back by [`Inner::hold`].
    held: AtomicBool,
    /// The highest version of any entity that was answered.
    answered: watch::Sender<u64>,
}

/// Stopped when dropped.
pub(super) struct BrokenOwner {
    address: std::net::SocketAddr,
    _task: JoinSet<()>,
}

impl BrokenOwner {
    pub(super) async fn start(fault: Fault, broker: Option<Broker>) -> Self {
        if let Some(broker) = &broker {
            let entity = EntityName::new("thing").unwrap();
            let config = stream::Config {
                name: subject::stream_name(&entity),
                subjects: vec![subject::all_subjects(&entity)],
                max_messages_per_subject: 1,
                discard: stream::DiscardPolicy::New,
                max_age: Duration::from_secs(if fault == Fault::MaxAge { 60 } else { 0 }),
                allow_direct: true,
                deny_delete: true,
                deny_purge: true,
                duplicate_window: Duration::from_secs(30),
                ..Default::default()
            };
            broker.jetstream.create_stream(config).await.unwrap();
        }
        let (things, offsets, writing, held, answered) = Default::default();
        let inner = Arc::new(Inner { fault, broker, things, offsets, writing, held, answered });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        let router = Router::new().fallback(answer).with_state(inner);
        task.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, _task: task }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn answer(State(owner): State<Arc<Inner>>, request: Request) -> Response {
    match owner.answer(request).await {
        Ok((status, body, etag)) => {
            let caching = if owner.fault == Fault::Cached { "max-age=60" } else { "no-store" };
            let headers = [(header::CACHE_CONTROL, caching.to_owned()), (header::ETAG, etag)];
            (status, headers, axum::Json(body)).into_response()
        }
        Err(problem) if owner.fault == Fault::PlainErrors => (problem.status, "no").into_response(),
        Err(problem) => problem.into_response(),
    }
}

type Answered = Result<(StatusCode, Value, String), Problem>;

fn ok(body: Value) -> Answered {
    Ok((StatusCode::OK, body, String::new()))
}

fn refused() -> Problem {
    Problem::field("body", "is not as the protocol wants it")
}

fn time(version: u64) -> String {
    Timestamp::from_unix_micros(version as i64).to_string()
}

impl Inner {
    async fn answer(&self, request: Request) -> Answered {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, 4 << 20).await.map_err(|_| refused())?;
        if body.len() > 1 << 20 && self.fault != Fault::Hungry {
            return Err(refused().with_status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        let path = parts.uri.path();
        let json = || serde_json::from_slice::<Value>(&body);
        let json = || json().map_err(|_| refused().with_status(StatusCode::BAD_REQUEST));
        if let Some(token) = path.strip_prefix("/things/") {
            let deletes = parts.method == Method::DELETE;
            return self.write(&self.id(token)?, if deletes { None } else { Some(json()?) }).await;
        }
        let call = path.strip_prefix("/sync/v1/thing/").unwrap_or_default();
        match (&parts.method, call) {
            (&Method::POST, "batch-get") => self.batch_get(&json()?).await,
            (&Method::POST, "items") => self.items(&json()?),
            (&Method::POST, "digest") => self.digest(),
            (&Method::GET, "items") if self.fault == Fault::WordsAreCalls => {
                Err(refused().with_status(StatusCode::METHOD_NOT_ALLOWED))
            }
            (&Method::GET, token) => {
                let seen =
                    parts.headers.get(header::IF_NONE_MATCH).and_then(|seen| seen.to_str().ok());
                self.get(&self.id(token)?, seen.unwrap_or_default())
            }
            _ => Err(refused().with_status(StatusCode::NOT_FOUND)),
        }
    }

    fn id(&self, token: &str) -> Result<String, Problem> {
        let id = subject::decode_token(token).map_err(|_| refused())?;
        Ok(if self.fault == Fault::NotDecoded { token.to_owned() } else { id.as_str().to_owned() })
    }

    async fn write(&self, id: &str, state: Option<Value>) -> Answered {
        let early = clock::now().unix_micros() as u64;
        if self.fault == Fault::EarlyVersion {
            self.hold(early).await;
        }
        let version = {
            let mut things = self.things.lock();
            let known = things.get(id).cloned();
            let deleted = known.as_ref().is_some_and(|known| known.state.is_none());
            let above = known.map_or(1, |known| known.version + 1);
            let version = match self.fault {
                Fault::EarlyVersion => early,
                Fault::StartsAnew if deleted => 1,
                _ => above.max(clock::now().unix_micros() as u64),
            };
            match state.is_none() && self.fault == Fault::Forgets {
                true => drop(things.remove(id)),
                false => {
                    drop(things.insert(id.to_owned(), Thing { version, state: state.clone() }))
                }
            }
            version
        };
        self.publish(id, version, state.as_ref()).await;
        ok(json!({}))
    }

    /// Holds back one of several writes until a later one was read, so that it is seen how old its version
    /// is however the machine is loaded. The others take a moment, so that there are several.
    async fn hold(&self, early: u64) {
        let several = self.writing.fetch_add(1, SeqCst) > 0;
        if several && !self.held.swap(true, SeqCst) {
            let mut answered = self.answered.subscribe();
            let later = answered.wait_for(|newest| *newest > early);
            let _ = tokio::time::timeout(MOST_HELD, later).await;
            self.held.store(false, SeqCst);
        } else {
            tokio::time::sleep(MOMENT).await;
        }
        self.writing.fetch_sub(1, SeqCst);
    }

    async fn publish(&self, id: &str, version: u64, state: Option<&Value>) {
        let Some(broker) = &self.broker else { return };
        if state.is_none() && self.fault == Fault::SilentDeletion {
            return;
        }
        let (entity, key) = (EntityName::new("thing").unwrap(), EntityId::new(id).unwrap());
        let mut subject = subject::subject(&entity, &key);
        if self.fault == Fault::LowerCase {
            subject = subject.to_lowercase();
        }
        let change = if state.is_some() { "updated" } else { "deleted" };
        let mut body = json!({"id": id, "change": change});
        if let (Some(state), Fault::Data) = (state, self.fault) {
            body["state"] = state.clone();
        }
        let named = if self.fault == Fault::OldVersion { version - 1 } else { version };
        let mut headers = HeaderMap::new();
        headers.insert("Nudge-Version", named.to_string());
        if self.fault == Fault::MessageId {
            headers.insert("Nats-Msg-Id", format!("{id}@{version}").as_str());
        }
        let sent = broker.jetstream.publish_with_headers(subject, headers, body.to_string().into());
        sent.await.unwrap().await.unwrap();
    }

    async fn batch_get(&self, request: &Value) -> Answered {
        let ids: Option<Vec<_>> = request["ids"].as_array().map(|ids| ids.iter().collect());
        let ids = ids.ok_or_else(refused)?;
        let id = |id: &&Value| id.as_str().and_then(|id| EntityId::new(id).ok());
        let valid: Option<Vec<_>> = ids.iter().map(id).collect();
        let fields = request["fields"].as_array().map_or(0, Vec::len);
        let most = if self.fault == Fault::Unbounded { usize::MAX } else { 512 };
        let within = (1..=most).contains(&ids.len()) && fields <= 64;
        let ids = valid.filter(|_| within).ok_or_else(refused)?;
        let mut items = Vec::new();
        // A snapshot, unless the fault is that it is none.
        let mut snapshot = self.things.lock().clone();
        for id in &ids {
            if self.fault == Fault::TwoSnapshots {
                tokio::time::sleep(MOMENT).await;
                snapshot = self.things.lock().clone();
            }
            items.push(self.item(id.as_str(), snapshot.get(id.as_str())).await);
        }
        if let (Fault::Twice, [item, ..]) = (self.fault, &items[..]) {
            items.push(item.clone());
        }
        ok(json!({"items": items}))
    }

    async fn item(&self, id: &str, thing: Option<&Thing>) -> Value {
        let Some(thing) = thing else {
            let unknown = if self.fault == Fault::UnknownIsDeleted { "deleted" } else { "unknown" };
            return json!({"id": id, "status": unknown});
        };
        let state = match self.fault {
            Fault::LateState => {
                tokio::time::sleep(MOMENT).await;
                self.things.lock().get(id).and_then(|thing| thing.state.clone())
            }
            _ => thing.state.clone(),
        };
        let version = match self.fault {
            Fault::NoVersion => Value::Null,
            Fault::Disagrees => (thing.version - 1).into(),
            _ => thing.version.into(),
        };
        self.answered.send_if_modified(|newest| {
            let newer = thing.version > *newest;
            *newest = thing.version.max(*newest);
            newer
        });
        match state {
            None => {
                json!({"id": id, "status": "deleted", "version": version, "changed_at": time(thing.version)})
            }
            Some(state) => {
                json!({"id": id, "status": "live", "version": version, "changed_at": time(thing.version), "state": state})
            }
        }
    }

    fn items(&self, request: &Value) -> Answered {
        if self.fault == Fault::NoProbe && request["limit"] == 1 {
            return Err(refused().with_status(StatusCode::NOT_FOUND));
        }
        let limit = match &request["limit"] {
            Value::Null => 500,
            limit => {
                limit.as_u64().filter(|limit| (1..=1_000).contains(limit)).ok_or_else(refused)?
            }
        } as usize;
        let after = match &request["after"] {
            Value::Null => "",
            after => after.as_str().filter(|after| !after.is_empty()).ok_or_else(refused)?,
        };
        let things = self.things.lock();
        let shown = |(_, thing): &(&String, &Thing)| {
            self.fault != Fault::HidesDeleted || thing.state.is_some()
        };
        let mut all: Vec<_> = things.iter().filter(shown).collect();
        if self.fault == Fault::ByLength {
            all.sort_by_key(|(id, _)| id.len());
        }
        let offset =
            self.offsets.lock().get(after).copied().filter(|_| self.fault == Fault::ByOffset);
        let from =
            offset.unwrap_or_else(|| all.iter().filter(|(id, _)| id.as_str() <= after).count());
        let page: Vec<_> = all[from.min(all.len())..].iter().take(limit).collect();
        let more = from + page.len() < all.len();
        let row = |(id, thing): &&(&String, &Thing)| json!({"id": id, "version": thing.version, "deleted": thing.state.is_none(), "changed_at": time(thing.version)});
        let next = if self.fault == Fault::NextIsFirst { page.first() } else { page.last() };
        let next = next.filter(|_| more).map(|(id, _)| (*id).clone());
        if let Some(next) = &next {
            self.offsets.lock().insert(next.clone(), from + page.len());
        }
        ok(json!({"items": page.iter().map(row).collect::<Vec<_>>(), "next": next}))
    }

    fn digest(&self) -> Answered {
        let row = |(id, thing): (&String, &Thing)| RangeRow {
            id: EntityId::new(id).unwrap(),
            version: Version::new(thing.version).unwrap(),
            deleted: thing.state.is_none() && self.fault != Fault::WrongDigest,
        };
        let rows: Vec<_> = self.things.lock().iter().map(row).collect();
        let range = json!({"to": null, "count": rows.len(), "digest": Digest::of(&rows)});
        ok(json!({"ranges": [range], "in_flight": []}))
    }

    fn get(&self, id: &str, seen: &str) -> Answered {
        let missing = || refused().with_status(StatusCode::NOT_FOUND);
        let thing = self.things.lock().get(id).cloned().ok_or_else(missing)?;
        let etag = format!("\"{}\"", thing.version);
        let body = json!({"id": id, "version": thing.version, "changed_at": time(thing.version), "state": thing.state});
        match thing.state {
            None if self.fault == Fault::GoneIsMissing => Err(missing()),
            None => {
                let body = json!({"id": id, "version": thing.version, "deleted": true});
                Ok((StatusCode::GONE, body, etag))
            }
            Some(_) if seen == etag => Ok((StatusCode::NOT_MODIFIED, Value::Null, etag)),
            Some(_) => Ok((StatusCode::OK, body, etag)),
        }
    }
}
