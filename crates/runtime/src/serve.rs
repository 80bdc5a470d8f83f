//! A listener on loopback: who is let in, how long each may take, and a graceful stop.

mod connection;
mod origin;
mod places;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, middleware::from_fn};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::problem::{self, Problem};
use places::Places;

/// Longest time that open requests get to finish when the program stops.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Pause of a listener that cannot accept, most often because there is no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener bears with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Most connections at a time.
    pub(crate) connections: usize,
    /// Longest time until the head of a request has arrived, from the opening of its connection or from
    /// the end of the answer before: so long is an idle connection kept, too. Clients should close theirs
    /// sooner, so that none is used as it closes.
    pub(crate) head: Duration,
    /// Longest pause within the body of a request.
    pub(crate) body_pause: Duration,
    /// Longest time in which a peer takes nothing of what is sent to it.
    pub(crate) write_pause: Duration,
}

/// Most connections of one listener at a time.
pub const MAX_CONNECTIONS: usize = 1_024;
/// Most connections at a time that are told that there is no place for them.
const MAX_REFUSALS: usize = 16;
/// Of the files that the process may have open, a listener takes one in so many at most: the rest is for
/// databases, NATS, logs, and calls to others.
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

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// There is no authentication yet, so nothing may listen where others can reach it.
    #[error("BIND: {0} is not a loopback address, and only loopback is allowed")]
    NotLoopback(SocketAddr),
    /// The operating system refused, most often because the port is taken.
    #[error("BIND: cannot listen on {address}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Listens on a loopback address, and says on which: port 0 picks a free one.
pub async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let listener = bind(address).await?;
    let local = listener.local_addr().map_err(|source| BindError::Io { address, source })?;
    Ok((listener, local))
}

/// Listens on a loopback address. Port 0 picks a free one.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|source| BindError::Io { address, source })
}

/// Serves `router` until `stop` is cancelled, then lets open requests finish for at most
/// [`DRAIN_DEADLINE`]. Unknown paths, wrong methods and panics are answered as problems.
///
/// Requests that a web page from elsewhere makes in somebody's browser are refused with 403. At most
/// [`MAX_CONNECTIONS`] are open at a time, or a quarter of the files that the process may have open. Who
/// comes then takes the place of the connection that has been idle for longest, or, when all are at work, is
/// answered with 503. Who sends or reads too slowly is cut off.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve_within(listener, router, stop, Limits::default()).await;
}

async fn serve_within(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    limits: Limits,
) {
    let router = router
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn(origin::only_from_here))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            let detail = "the service failed; its log says why";
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
        // Those that have ended.
        while connections.try_join_next().is_some() {}
        while refusals.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => match places.take() {
                Some(place) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    connections.spawn(connection::serve(stream, router, place, limits, stop));
                }
                None if refusals.len() < MAX_REFUSALS => {
                    refusals.spawn(connection::refuse(stream));
                }
                // Who floods us is not talked to.
                None => {}
            },
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                places.make_room();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_DEADLINE, all).await.is_err() {
        tracing::warn!("open requests did not finish in time and were cut");
    }
}

/// Whether it was the peer that went away before it was let in.
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
