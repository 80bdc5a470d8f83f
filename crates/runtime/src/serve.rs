//! A listener: which requests are let in, time limits, and a graceful stop.

mod connection;
mod origin;
pub(crate) mod overload;
mod places;
pub(crate) mod rates;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    problem::{self, Problem},
    tls::Acceptor,
};
use overload::Overload;
use places::Places;

/// Time that open requests get to finish when the program stops.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Pause of a listener that cannot accept, usually because no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The limits of a listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Most connections at a time.
    pub(crate) connections: usize,
    /// Time allowed for the head of a request to arrive, from the opening of its connection or from
    /// the end of the previous answer; also how long an idle connection is kept. Clients should close theirs
    /// earlier, so that they do not use one that is being closed.
    pub(crate) head: Duration,
    /// Longest pause within the body of a request.
    pub(crate) body_pause: Duration,
    /// Longest time for which a peer may not read what is sent to it.
    pub(crate) write_pause: Duration,
}

/// Most connections of one listener at a time.
pub const MAX_CONNECTIONS: usize = 1_024;
/// Largest head of a request, in bytes. More than the longest token that is looked at: one of 100 KB is still told why it is
/// refused.
pub const MAX_HEAD_BYTES: usize = 128 * 1024;
/// Most connections at a time that are being told that the listener is full.
const MAX_REFUSALS: usize = 16;
/// A listener takes at most one in this many of the files that the process may have open: the rest is for
/// databases, NATS, logs, and outgoing calls.
const FILES_PER_CONNECTION: u64 = 4;

impl Default for Limits {
    fn default() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let share = files.map_or(MAX_CONNECTIONS as u64, |files| files / FILES_PER_CONNECTION);
        Self {
            connections: MAX_CONNECTIONS.min(share.max(1) as usize),
            head: Duration::from_secs(60),
            body_pause: Duration::from_secs(30),
            write_pause: Duration::from_secs(30),
        }
    }
}

/// The address that a request came from, among its extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Nothing asks others for tokens, or nothing encrypts them, so nobody else may reach it.
    #[error(
        "BIND: {0} is not a loopback address: that needs tokens (AUTH_ISSUER), and TLS (TLS_CERT_FILE) or a proxy that does it (BEHIND_PROXY)"
    )]
    NotLoopback(SocketAddr),
    /// The operating system refused, usually because the port is taken.
    #[error("BIND: cannot listen on {address}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Listens on a loopback address, and returns which: port 0 picks a free one.
pub async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    listen_anywhere(address).await
}

/// [`listen`] on any address.
pub(crate) async fn listen_anywhere(
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |source| BindError::Io { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// Listens on a loopback address. Port 0 picks a free one.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    listen(address).await.map(|(listener, _)| listener)
}

/// Serves `router` until `stop` is cancelled, then lets open requests finish for at most
/// [`DRAIN_DEADLINE`]. Unknown paths, wrong methods and panics are answered as problems.
///
/// Requests by foreign web pages in somebody's browser are refused with 403. At most
/// [`MAX_CONNECTIONS`] are open at a time, or a quarter of the files that the process may have open. A new one
/// then replaces the connection that has been idle longest or, if all are busy, is
/// answered with 503. So is a request if too many of its class are being answered, and an event stream if there are too many. Clients that send or read too slowly are disconnected.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let limits = Limits::default();
    let overload = Overload::new(limits.connections, None);
    serve_within(listener, router, stop, limits, overload).await;
}

pub(crate) async fn serve_within(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    limits: Limits,
    overload: Overload,
) {
    serve_to_all(listener, from_here(router, overload), stop, limits, None).await;
}

/// Refuses requests by foreign web pages in somebody's browser, and what `overload` does not let in.
pub(crate) fn from_here(router: Router, overload: Overload) -> Router {
    within(router, overload).layer(from_fn(origin::only_from_here))
}

/// Answers unknown paths and wrong methods as problems, and no more at a time than `overload` lets in.
pub(crate) fn within(router: Router, overload: Overload) -> Router {
    let whole = router.fallback(problem::not_found);
    let whole = whole.method_not_allowed_fallback(problem::method_not_allowed);
    whole.layer(from_fn_with_state(overload, overload::admit))
}

/// [`serve`] without a look at where requests come from, without fallbacks, and without classes; with TLS if there is an
/// acceptor.
pub(crate) async fn serve_to_all(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    limits: Limits,
    tls: Option<Acceptor>,
) {
    let router = router.layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
        let detail = "internal error; see the service's log";
        axum::response::IntoResponse::into_response(Problem::new(
            axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            detail,
        ))
    }));
    let places = Arc::new(Places::new(limits.connections));
    let (mut connections, mut refusals) = (JoinSet::new(), JoinSet::new());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        // Those that ended.
        while connections.try_join_next().is_some() {}
        while refusals.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => match places.take() {
                Some(place) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    let tls = tls.clone();
                    connections.spawn(connection::serve(stream, tls, router, place, limits, stop));
                }
                None if refusals.len() < MAX_REFUSALS => {
                    refusals.spawn(connection::refuse(stream, tls.clone()));
                }
                // A flood gets no answers.
                None => {}
            },
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                places.make_room();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_DEADLINE, all).await.is_err() {
        tracing::warn!("open requests did not finish in time and were aborted");
    }
}

/// Whether the peer went away before its connection was accepted.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Cancels the returned token on the first SIGINT or SIGTERM.
pub fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .expect("a signal handler can be installed at start");
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        cancel.cancel();
    });
    stop
}

#[cfg(test)]
mod tests;
