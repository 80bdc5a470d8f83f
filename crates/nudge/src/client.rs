//! Requests to the services, with one-line errors.

use std::{sync::Arc, time::Duration};

use nudge_protocol::{EntityId, WriteToken, subject};
use nudge_runtime::auth::Credentials;
use reqwest::{Method, RequestBuilder, Response, StatusCode, redirect::Policy};
use serde::{Deserialize, de::DeserializeOwned};

pub(crate) use nudge_testbed::Service;

use crate::{failure::Failure, peers::Peer};

/// Longest wait for a whole answer, except where a command sets another.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a connection: everything is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time that an idle connection is kept: less than the services keep it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Most of an error answer that is read, in bytes.
const MAX_PROBLEM_BYTES: usize = 64 * 1024;
/// From `--port-base` to NATS; the highest offset in use.
pub(crate) const NATS_PORT_OFFSET: u16 = 22;

/// Sends requests to the services. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    http: reqwest::Client,
    credentials: Credentials,
    /// The demo's in the order of [`Service::ALL`], then others.
    peers: Arc<[Peer]>,
}

impl Api {
    /// For the services at `port_base`.
    pub(crate) fn new(port_base: u16) -> Self {
        Self::with_ports(Service::ALL.map(|service| service.port(port_base)))
    }

    /// For the demo's services on these ports, in the order of [`Service::ALL`].
    pub(crate) fn with_ports(ports: [u16; Service::ALL.len()]) -> Self {
        let peers =
            Service::ALL.into_iter().zip(ports).map(|(service, port)| Peer::of(service, port));
        let credentials = Credentials::default();
        Self { http: built(client(&credentials)), credentials, peers: peers.collect() }
    }

    /// The same, with this token in every request, and these certificates.
    pub(crate) fn signing(self, credentials: &Credentials) -> Self {
        Self { http: built(client(credentials)), credentials: credentials.clone(), ..self }
    }

    /// The same with this token, which somebody has given; `None` if a header cannot hold it.
    pub(crate) fn with_token(self, token: &str) -> Option<Self> {
        Some(Self { credentials: self.credentials.with_token(token)?, ..self })
    }

    /// The same with these services, the first of which are those of the demo.
    pub(crate) fn with(self, peers: Vec<Peer>) -> Self {
        Self { peers: peers.into(), ..self }
    }

    /// All services.
    pub(crate) fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// A service of the demo.
    pub(crate) fn of(&self, service: Service) -> Peer {
        self.peers[service as usize]
    }

    /// The same, with a new connection for each request.
    pub(crate) fn without_idle_connections(self) -> Self {
        let http = built(client(&self.credentials).pool_max_idle_per_host(0));
        Self { http, ..self }
    }

    /// The path of a request to a service as it would be sent, without its query: a URL resolves `.` and
    /// `..`.
    pub(crate) fn path_as_sent(&self, peer: Peer, path: &str) -> Option<String> {
        let url: reqwest::Url = format!("{}{path}", peer.url()).parse().ok()?;
        Some(url.path().to_owned())
    }

    /// A request that must be answered soon.
    pub(crate) fn request(&self, method: Method, peer: Peer, path: &str) -> RequestBuilder {
        self.long_request(method, peer, path).timeout(ANSWER_TIMEOUT)
    }

    /// A request without a time limit, for streams.
    pub(crate) fn long_request(&self, method: Method, peer: Peer, path: &str) -> RequestBuilder {
        self.credentials.sign(self.http.request(method, format!("{}{path}", peer.url())))
    }

    /// Sends a request; any status is an answer.
    pub(crate) async fn send(
        &self,
        peer: Peer,
        request: RequestBuilder,
    ) -> Result<Response, Failure> {
        request.send().await.map_err(|error| self.transport(peer, &error))
    }

    /// Sends a request; anything but 2xx is a failure that carries the problem's detail.
    pub(crate) async fn expect(
        &self,
        peer: Peer,
        request: RequestBuilder,
    ) -> Result<Response, Failure> {
        let response = self.send(peer, request).await?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(refusal(peer, response).await),
        }
    }

    /// Sends a request and reads the JSON of a 2xx answer.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        peer: Peer,
        request: RequestBuilder,
    ) -> Result<T, Failure> {
        let response = self.expect(peer, request).await?;
        self.body(peer, response).await
    }

    /// The JSON of an answer.
    pub(crate) async fn body<T: DeserializeOwned>(
        &self,
        peer: Peer,
        response: Response,
    ) -> Result<T, Failure> {
        let bytes = response.bytes().await.map_err(|error| self.transport(peer, &error))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let name = peer.name();
            Failure::failed(format!("{name} sent an unexpected answer: {error}"))
        })
    }

    /// One line for a request that got no answer.
    pub(crate) fn transport(&self, peer: Peer, error: &reqwest::Error) -> Failure {
        let address = peer.address();
        let name = peer.name();
        if error.is_connect() {
            // Where others run is not for us to say.
            match peer.demo() {
                Some(_) => Failure::failed(format!(
                    "nothing answers on {address}: is \"make demo\" running?"
                )),
                None => Failure::failed(format!("{name}: nothing answers on {address}")),
            }
        } else if error.is_timeout() {
            Failure::failed(format!("{name} on {address} did not answer in time"))
        } else {
            let reason = nudge_runtime::problem::chain(error);
            Failure::failed(format!("the request to {name} on {address} failed: {reason}"))
        }
    }
}

fn client(credentials: &Credentials) -> reqwest::ClientBuilder {
    // The services are on this machine; a proxy of the environment cannot reach them.
    let client = credentials.http().no_proxy().connect_timeout(CONNECT_TIMEOUT);
    // No service of ours redirects; another could send a request on to wherever it likes, without TLS.
    let client = client.redirect(Policy::none());
    client.pool_idle_timeout(IDLE_TIMEOUT)
}

fn built(client: reqwest::ClientBuilder) -> reqwest::Client {
    client.build().expect("a client can be built")
}

/// The path of one store, with its id percent-encoded.
pub(crate) fn store_path(id: &EntityId) -> Result<String, Failure> {
    segment(id).map(|segment| format!("/stores/{segment}"))
}

/// An id as a path segment.
///
/// URLs have no way to write the segments `.` and `..`: even percent-encoded they mean "here" and
/// "one up", and would address something else.
pub(crate) fn segment(id: &EntityId) -> Result<String, Failure> {
    match id.as_str() {
        "." | ".." => Err(Failure::Usage(format!("the ID {id:?} cannot be part of a URL"))),
        _ => Ok(subject::encode_token(id)),
    }
}

/// The `Nudge-Token` of a write's answer.
pub(crate) fn write_token(response: &Response) -> Option<WriteToken> {
    let header = response.headers().get(nudge_protocol::write_token::WRITE_TOKEN_HEADER)?;
    header.to_str().ok()?.parse().ok()
}

/// The members of an RFC 9457 problem that are read.
#[derive(Debug, Default, Deserialize)]
struct ProblemBody {
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    errors: Vec<FieldError>,
}

#[derive(Debug, Deserialize)]
struct FieldError {
    field: String,
    detail: String,
}

/// One line for an answer that is not 2xx.
pub(crate) async fn refusal(peer: Peer, mut response: Response) -> Failure {
    let status = response.status();
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_PROBLEM_BYTES {
            break;
        }
    }
    Failure::failed(describe(peer, status, &body))
}

fn describe(peer: Peer, status: StatusCode, body: &[u8]) -> String {
    let problem: ProblemBody = serde_json::from_slice(body).unwrap_or_default();
    let fields: Vec<_> =
        problem.errors.iter().map(|error| format!("{}: {}", error.field, error.detail)).collect();
    let reason = match (fields.is_empty(), problem.detail, problem.title) {
        (false, ..) => fields.join("; "),
        (true, Some(detail), _) => detail,
        (true, None, Some(title)) => title,
        (true, None, None) => status.canonical_reason().unwrap_or("no reason given").to_owned(),
    };
    // A problem's text comes from outside: it must stay one line.
    let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let help = match status {
        StatusCode::UNAUTHORIZED => {
            "; give it with --token-file (NUDGE_TOKEN_FILE), and see nudge token --help"
        }
        StatusCode::FORBIDDEN => "; --token-file (NUDGE_TOKEN_FILE) must name one that allows it",
        _ => "",
    };
    format!("{reason} ({} answered {}){help}", peer.name(), status.as_u16())
}

#[cfg(test)]
mod tests;
