//! The check before every request.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    AuthArgs, AuthError, Caller, Scope,
    policy::needed,
    strangers::Strangers,
    verifier::{Refused, Verifier},
};
use crate::{
    Problem,
    serve::{self, BindError, Limits, Peer, overload::Overload},
    tls::Tls,
};

/// The target of the lines that say who changed what. They are never left out, however many there are.
pub const AUDIT: &str = "audit";
/// What a caller is told to wait, in seconds, while the issuer's keys are not known.
const KEYS_PAUSE_SECONDS: u16 = 5;

/// Whom a service answers: everybody on this machine, or whoever has a token. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Admission {
    tokens: Option<Arc<Verifier>>,
    tls: Tls,
    behind_proxy: bool,
    limits: Limits,
    overload: Overload,
    strangers: Arc<Strangers>,
    reads: Arc<[&'static str]>,
}

impl Admission {
    /// As the settings say.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn of(args: &AuthArgs) -> Result<Self, AuthError> {
        let tls = Tls::of(&args.tls)?;
        let verifier = args.auth_issuer.as_deref().map(|issuer| Verifier::new(args, issuer, &tls));
        let tokens = verifier.transpose()?.map(Arc::new);
        let limits = Limits::default();
        let overload = Overload::new(limits.connections, args.client_rate);
        let behind_proxy = args.behind_proxy;
        let strangers = Arc::new(Strangers::new(behind_proxy));
        Ok(Self { tokens, tls, behind_proxy, limits, overload, strangers, reads: Arc::default() })
    }

    /// Adds metrics of what is refused because of overload to a registry.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.overload.register(registry);
    }

    /// The same for a service in which a `POST` to one of these paths only reads.
    #[must_use]
    pub fn reads(self, paths: &[&'static str]) -> Self {
        Self { reads: paths.into(), ..self }
    }

    /// Listens, and returns on which address: port 0 picks a free one.
    ///
    /// # Errors
    /// If the address is taken, or is not a loopback address while nobody is asked for a token, or tokens would travel
    /// without TLS.
    pub async fn listen(
        &self,
        address: SocketAddr,
    ) -> Result<(TcpListener, SocketAddr), BindError> {
        let is_encrypted = self.tls.acceptor().is_some() || self.behind_proxy;
        match self.tokens.is_some() && is_encrypted {
            true => serve::listen_anywhere(address).await,
            false => serve::listen(address).await,
        }
    }

    /// Serves `router` as [`serve::serve`] does, to whoever may be answered.
    pub async fn serve(self, listener: TcpListener, router: Router, stop: CancellationToken) {
        let (tls, limits) = (self.tls.acceptor().cloned(), self.limits);
        let router = match self.tokens {
            None => serve::from_here(router, self.overload),
            // Pages of other sites have no token, so where they come from does not matter.
            Some(_) => self.guard(router),
        };
        serve::serve_to_all(listener, router, stop, limits, tls).await;
    }

    /// The router behind the check. Paths that it does not have are refused as well.
    pub(super) fn guard(self, router: Router) -> Router {
        serve::within(router, self.overload.clone()).layer(from_fn_with_state(self, admit))
    }

    /// Whether a token is needed.
    pub fn asks(&self) -> bool {
        self.tokens.is_some()
    }

    /// Who has this token, which must allow this. For programs that do not get it with each request.
    ///
    /// # Errors
    /// 401 if the token is not good, 403 if its scope is not, 503 as long as the issuer's keys are not known.
    pub async fn check(&self, token: &str, scope: Scope) -> Result<Arc<Caller>, Problem> {
        self.admitted(token, scope).await.map_err(Denied::problem)
    }

    async fn admitted(&self, token: &str, scope: Scope) -> Result<Arc<Caller>, Denied> {
        let tokens = self.tokens.as_ref().ok_or(Denied::NoToken)?;
        let caller = match tokens.known(token) {
            Some(caller) => caller,
            None => tokens.verify(token).await.map_err(Denied::Refused)?,
        };
        caller.has(scope).then_some(caller).ok_or(Denied::Scope(scope))
    }

    /// Whether this token is not looked at, since too many that came from there were not good. One that was found good
    /// before is.
    fn is_strangers(&self, token: &str, from: Option<IpAddr>) -> bool {
        let is_known = || self.tokens.as_ref().is_some_and(|tokens| tokens.known(token).is_some());
        from.is_some_and(|from| !self.strangers.may_try(from)) && !is_known()
    }
}

/// The token that a request came with.
///
/// # Errors
/// 401 if it came without one, or with more than one.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    token_of(headers).map_err(Denied::problem)
}

fn token_of(headers: &HeaderMap) -> Result<&str, Denied> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next().ok_or(Denied::NoToken)?, values.next()) else {
        return Err(Denied::Refused(Refused::Malformed));
    };
    let text = value.to_str().map_err(|_| Denied::Refused(Refused::Malformed))?;
    let (scheme, token) = text.split_once(' ').ok_or(Denied::NoToken)?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).ok_or(Denied::NoToken)
}

/// Why a request is not answered.
enum Denied {
    NoToken,
    Refused(Refused),
    /// A good token without this scope.
    Scope(Scope),
    /// It has the scope, but for other entities.
    Elsewhere,
}

impl Denied {
    fn problem(self) -> Problem {
        let (status, challenge, detail) = match self {
            // RFC 6750: nothing was wrong, so no error is named.
            Self::NoToken => {
                let detail = "send a token: `Authorization: Bearer …`".to_owned();
                (StatusCode::UNAUTHORIZED, String::new(), detail)
            }
            Self::Refused(why @ Refused::NoKeysYet) => {
                let pause = HeaderValue::from(KEYS_PAUSE_SECONDS);
                return Problem::new(StatusCode::SERVICE_UNAVAILABLE, why.to_string())
                    .with_header(header::RETRY_AFTER, pause);
            }
            Self::Refused(why) => {
                let challenge =
                    format!(", error=\"invalid_token\", error_description=\"{}\"", plain(&why));
                (StatusCode::UNAUTHORIZED, challenge, why.to_string())
            }
            Self::Scope(scope) => {
                let challenge = format!(", error=\"insufficient_scope\", scope=\"{scope}\"");
                (StatusCode::FORBIDDEN, challenge, format!("this needs the scope {scope}"))
            }
            Self::Elsewhere => {
                let detail = "the token may change only what its nudge_only names".to_owned();
                (StatusCode::FORBIDDEN, ", error=\"insufficient_scope\"".to_owned(), detail)
            }
        };
        let challenge = HeaderValue::try_from(format!("Bearer realm=\"nudge\"{challenge}"));
        Problem::new(status, detail).with_header(
            header::WWW_AUTHENTICATE,
            challenge.unwrap_or(HeaderValue::from_static("Bearer")),
        )
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        self.problem().into_response()
    }
}

/// A reason as a header may repeat it: a claim's name came with the token.
fn plain(why: &Refused) -> String {
    let kept = |c: &char| (' '..='~').contains(c) && !matches!(c, '"' | '\\');
    why.to_string().chars().filter(kept).collect()
}

async fn admit(State(admission): State<Admission>, mut request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let Some(scope) = needed(&method, &path, &admission.reads) else {
        return next.run(request).await;
    };
    let from = request.extensions().get::<Peer>().map(|peer| peer.0);
    let caller = match token_of(request.headers()) {
        Ok(token) if admission.is_strangers(token, from) => {
            return admission.overload.refuse_stranger(&request).into_response();
        }
        Ok(token) => admission.admitted(token, scope).await,
        Err(denied) => Err(denied),
    };
    if let (Some(from), Err(Denied::Refused(why))) = (from, &caller)
        && why.cost_a_check()
    {
        admission.strangers.failed(from);
    }
    let caller = match caller {
        Ok(caller) if scope.changes() && !caller.may_change(&method, &path) => {
            return Denied::Elsewhere.into_response();
        }
        Ok(caller) => caller,
        Err(denied) => return denied.into_response(),
    };
    // No handler needs it, and none can log it.
    request.headers_mut().remove(header::AUTHORIZATION);
    request.extensions_mut().insert(caller.clone());
    let query = request.uri().query().map(str::to_owned);
    let audit = scope.changes().then(|| Audit { caller, method, path, query, ended: false });
    let response = next.run(request).await;
    if let Some(audit) = audit {
        audit.end(&response);
    }
    response
}

/// What a handler says of a request for the audit log, as an extension of its answer, where path and query do not tell.
#[derive(Clone, Debug)]
pub struct Asked(pub String);

/// A request that may change something. It is logged even if its client goes away, and its handler with it.
struct Audit {
    caller: Arc<Caller>,
    method: Method,
    path: String,
    query: Option<String>,
    ended: bool,
}

impl Audit {
    fn end(mut self, response: &Response) {
        let location = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        let asked = response.extensions().get::<Asked>().map(|asked| &*asked.0);
        self.log(Some(response.status().as_u16()), location, asked);
        self.ended = true;
    }

    fn log(&self, status: Option<u16>, location: Option<&str>, asked: Option<&str>) {
        let Self { caller, method, path, query, .. } = self;
        let (subject, query) = (&caller.subject, query.as_deref());
        tracing::info!(target: AUDIT, subject, %method, path, query, asked, status, location, "changed");
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if !self.ended {
            self.log(None, None, None);
        }
    }
}
