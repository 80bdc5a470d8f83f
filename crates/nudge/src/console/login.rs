//! Whom the console answers: everybody on this machine, or whoever has a token.
//!
//! A person logs in with a token once. It stays here, and the browser gets a cookie with a name for it that means nothing
//! elsewhere: browsers send cookies to every port of a machine. Commands send their token with each request. Either way,
//! what is asked of the services for somebody is asked with their own token, so that they may do what the services let
//! them, and the audit logs name them.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use nudge_protocol::Timestamp;
use nudge_runtime::{
    Problem,
    auth::{Admission, Caller, Scope, admission::bearer},
    body::{MAX_BODY_BYTES, read_body, require_content_type},
    clock,
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Console;
use crate::chaos::drawer;

/// Where a page logs in and out, and learns who it is.
const PATH: &str = "/api/session";
/// Most people that can be logged in at a time.
const MAX_SESSIONS: usize = 256;
/// What a request is told that came without a token.
const HINT: &str = "log in on the page, or send a token: `Authorization: Bearer …`";

/// Who must log in. Cloning is cheap; the default is nobody.
#[derive(Clone, Default)]
pub(crate) struct Login(Option<Arc<Inner>>);

struct Inner {
    admission: Admission,
    /// Two consoles on one machine share their cookies, but not this name.
    cookie: String,
    sessions: Mutex<HashMap<String, Session>>,
}

/// Somebody who has logged in.
#[derive(Clone)]
struct Session {
    token: String,
    caller: Arc<Caller>,
    /// As this person sees it.
    console: Console,
}

/// Shows no token.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cookie = self.0.as_ref().map(|inner| &inner.cookie);
        f.debug_struct("Login").field("cookie", &cookie).finish_non_exhaustive()
    }
}

impl Login {
    /// Asks for tokens that this admits, at the console on this port. Nobody must log in if it admits everybody.
    pub(crate) fn asking(admission: Admission, port: u16) -> Self {
        let cookie = format!("nudge-console-{port}");
        let asks = admission.asks();
        Self(asks.then(|| Arc::new(Inner { admission, cookie, sessions: Mutex::default() })))
    }
}

impl Inner {
    /// Whether it is good, and for how long.
    async fn check(&self, token: &str, scope: Scope) -> Result<Arc<Caller>, Problem> {
        let caller = self.admission.check(token, scope).await?;
        // Services allow for clocks that differ; a page ends when it says that it does.
        (clock::now() < caller.expires_at()).then_some(caller).ok_or_else(expired)
    }

    fn id<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let values = headers.get_all(header::COOKIE).iter();
        let pairs = values.filter_map(|value| value.to_str().ok()).flat_map(|all| all.split(';'));
        let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == self.cookie).map(|(_, id)| id)
    }

    fn session(&self, headers: &HeaderMap) -> Option<Session> {
        let id = self.id(headers)?;
        self.sessions.lock().get(id).cloned()
    }

    fn end(&self, headers: &HeaderMap) {
        let ended = self.id(headers).and_then(|id| self.sessions.lock().remove(id));
        if let Some(session) = ended {
            session.console.stop.cancel();
        }
    }

    /// The console for whoever sends this.
    async fn console_for(
        &self,
        console: &Console,
        headers: &HeaderMap,
        scope: Scope,
    ) -> Result<Console, Problem> {
        if headers.contains_key(header::AUTHORIZATION) {
            let token = bearer(headers)?;
            let caller = self.check(token, scope).await?;
            return console.of(token, &caller);
        }
        let session = self.session(headers);
        let session = session.ok_or_else(|| unauthorized(HINT))?;
        // Its issuer may have other keys by now.
        self.check(&session.token, scope).await?;
        Ok(session.console)
    }

    /// Keeps a session, and returns its name.
    fn keep(&self, session: Session) -> Result<String, Problem> {
        let mut sessions = self.sessions.lock();
        let now = clock::now();
        sessions.retain(|_, session| now < session.caller.expires_at());
        if sessions.len() >= MAX_SESSIONS {
            let detail = format!("at most {MAX_SESSIONS} can be logged in at a time");
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
        }
        // Nobody can guess it.
        let id = uuid::Uuid::new_v4().simple().to_string();
        sessions.insert(id.clone(), session);
        Ok(id)
    }

    fn set_cookie(&self, id: &str, seconds: i64) -> HeaderValue {
        let cookie = &self.cookie;
        let text = format!("{cookie}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}");
        text.parse().expect("a port and letters make a header")
    }
}

fn expired() -> Problem {
    unauthorized("the token has expired")
}

fn unauthorized(detail: &'static str) -> Problem {
    let challenge = HeaderValue::from_static("Bearer");
    Problem::new(StatusCode::UNAUTHORIZED, detail).with_header(header::WWW_AUTHENTICATE, challenge)
}

fn seconds_left(until: Timestamp) -> i64 {
    until.seconds_since(clock::now()).max(0.0).floor() as i64
}

/// The routes behind the login, and the login itself.
pub(super) fn guard(routes: Router<Console>, console: Console) -> Router {
    let session = get(shown).post(log_in).delete(log_out);
    routes
        .route_layer(from_fn_with_state(console.clone(), admit))
        .route(PATH, session)
        .with_state(console)
}

/// Hands the handlers the console as whoever asks may see it.
async fn admit(State(console): State<Console>, mut request: Request, next: Next) -> Response {
    let mine = match &console.login.0 {
        None => Ok(console.clone()),
        Some(login) => {
            let scope = needed(request.method(), request.uri().path());
            login.console_for(&console, request.headers(), scope).await
        }
    };
    match mine {
        Ok(mine) => {
            request.extensions_mut().insert(mine);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// What the console does itself. What a service does for it, that service decides about.
fn needed(method: &Method, path: &str) -> Scope {
    let breaks = path == drawer::http::PATH
        || path.strip_prefix(drawer::http::PATH).is_some_and(|rest| rest.starts_with('/'));
    match breaks && !method.is_safe() {
        true => Scope::Admin,
        false => Scope::Observe,
    }
}

/// Who is logged in. Not to be is no error: the page asks first.
async fn shown(State(console): State<Console>, headers: HeaderMap) -> Json<Value> {
    let Some(login) = &console.login.0 else { return Json(json!({ "asks": false })) };
    let session = login.session(&headers);
    let session = session.filter(|session| clock::now() < session.caller.expires_at());
    Json(session.map_or_else(|| json!({ "asks": true }), |session| about(&session.caller)))
}

fn about(caller: &Caller) -> Value {
    let scopes: Vec<_> = Scope::ALL.into_iter().filter(|scope| caller.has(*scope)).collect();
    json!({
        "asks": true,
        "subject": caller.subject,
        "scopes": scopes.into_iter().map(Scope::name).collect::<Vec<_>>(),
        "seconds_left": seconds_left(caller.expires_at()),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    token: String,
}

async fn log_in(State(console): State<Console>, request: Request) -> Result<Response, Problem> {
    let Some(login) = &console.login.0 else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "nobody is asked for a token here"));
    };
    let (parts, body) = request.into_parts();
    require_content_type(&parts.headers, &["application/json"])?;
    let token = token_in(body).await?;
    let caller = login.check(&token, Scope::Observe).await?;
    let console = console.of(&token, &caller)?;
    let (seconds, shown) = (seconds_left(caller.expires_at()), about(&caller));
    let id = login.keep(Session { token, caller, console })?;
    login.end(&parts.headers);
    Ok(([(header::SET_COOKIE, login.set_cookie(&id, seconds))], Json(shown)).into_response())
}

/// What a reader of the body would say of a wrong one could repeat it.
async fn token_in(body: Body) -> Result<String, Problem> {
    let bytes = read_body(body, MAX_BODY_BYTES).await?;
    let given: Option<Given> = serde_json::from_slice(&bytes).ok();
    let token = given.map(|given| given.token.trim().to_owned());
    token.ok_or_else(|| Problem::parameter("token", "the body must be {\"token\": \"…\"}"))
}

async fn log_out(State(console): State<Console>, headers: HeaderMap) -> Response {
    let Some(login) = &console.login.0 else { return StatusCode::NO_CONTENT.into_response() };
    login.end(&headers);
    let forget = [(header::SET_COOKIE, login.set_cookie("", 0))];
    (StatusCode::NO_CONTENT, forget).into_response()
}

impl Console {
    /// The same for somebody who may do what this token allows, for as long as it does.
    fn of(&self, token: &str, caller: &Caller) -> Result<Self, Problem> {
        let api = self
            .api
            .clone()
            .with_token(token)
            .ok_or_else(|| unauthorized("the token cannot be sent in a header"))?;
        let feed = super::feed::Feed::new();
        let (stop, ends) = (self.stop.child_token(), Some(caller.expires_at()));
        // No session is kept by what it keeps.
        Ok(Self { api, feed, stop, ends, login: Login::default(), ..self.clone() })
    }
}

#[cfg(test)]
mod tests;
