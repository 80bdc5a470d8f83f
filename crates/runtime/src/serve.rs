//! A listener on loopback with graceful stop.

use std::{future::IntoFuture, net::SocketAddr, time::Duration};

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::problem::{self, Problem};

/// Longest time that open requests get to finish when the program stops.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

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
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let router = router
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            let detail = "the service failed; its log says why";
            axum::response::IntoResponse::into_response(Problem::new(
                axum::http::StatusCode::INTERNAL_SERVER_ERROR,
                detail,
            ))
        }));
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // Small answers must not wait for the peer's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
    });
    let server =
        axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN_DEADLINE).await;
    };
    tokio::select! {
        served = server.into_future() => if let Err(error) = served {
            tracing::error!(%error, "the listener failed");
        },
        () = deadline => tracing::warn!("open requests did not finish in time and were cut"),
    }
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
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_loopback_is_bound() {
        let error = bind("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("loopback"), "{error}");
        assert!(bind("127.0.0.1:0".parse().unwrap()).await.is_ok());
    }
}
