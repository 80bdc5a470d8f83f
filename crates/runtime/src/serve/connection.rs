//! One connection, from its first request to its end.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response};
use hyper::{
    body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::timeout::TimeoutBody;

use super::{Limits, places::Place};
use crate::tls::Acceptor;

/// The complete answer if the listener is full. It is sent without reading the request.
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
     retry-after: 1\r\ncache-control: no-store\r\nconnection: close\r\ncontent-length: 93\r\n\r\n\
     {\"status\":503,\"title\":\"Service Unavailable\",\"detail\":\"too many requests are being answered\"}\n";

/// Time allowed for sending that answer.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(1);

/// Answers a connection that exceeds the limit.
pub(super) async fn refuse(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let refusing = async {
        stream.write_all(FULL.as_bytes()).await?;
        stream.shutdown().await?;
        // Unread input would make the operating system reset the connection and discard the answer.
        let mut rest = [0; 4 * 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    let _ = tokio::time::timeout(REFUSAL_DEADLINE, refusing).await;
}

/// The same in TLS.
pub(super) async fn refuse_encrypted(tls: Acceptor, stream: TcpStream) {
    if let Ok(Ok(stream)) = tokio::time::timeout(REFUSAL_DEADLINE, tls.accept(stream)).await {
        refuse(stream).await;
    }
}

/// [`serve`] in TLS. The handshake has as much time as the head of a request.
pub(super) async fn serve_encrypted(
    tls: Acceptor,
    stream: TcpStream,
    router: Router,
    place: Arc<Place>,
    limits: Limits,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(limits.head, tls.accept(stream)) => accepted,
        () = place.give_way.cancelled() => return,
        () = stop.cancelled() => return,
    };
    match accepted {
        Ok(Ok(stream)) => serve_on(stream, router, place, limits, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a connection was not encrypted"),
        Err(_) => tracing::debug!("a handshake took too long"),
    }
}

/// Serves one request after another until the peer goes away, takes too long or has to make room. After
/// `stop`, the request that is being answered is the last.
pub(super) async fn serve(
    stream: TcpStream,
    router: Router,
    place: Arc<Place>,
    limits: Limits,
    stop: CancellationToken,
) {
    // Small answers must not wait for the peer's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    serve_on(stream, router, place, limits, stop).await;
}

async fn serve_on(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    place: Arc<Place>,
    limits: Limits,
    stop: CancellationToken,
) {
    let give_way = place.give_way.clone();
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, at_work) = (router.clone(), place.at_work());
        let request: Request =
            request.map(|body| Body::new(TimeoutBody::new(limits.body_pause, body)));
        async move {
            let answer: Response = router.oneshot(request).await?;
            Ok::<_, Infallible>(answer.map(|body| UntilSent { body, _held: at_work }))
        }
    });
    let stream = Impatient { stream, write_pause: limits.write_pause, stalled: None };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = give_way.cancelled() => return,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The body of an answer, and what is held until it is sent.
pub(super) struct UntilSent<T> {
    body: Body,
    _held: T,
}

impl<T: Send + Unpin + 'static> UntilSent<T> {
    pub(super) fn body(body: Body, held: T) -> Body {
        Body::new(Self { body, _held: held })
    }
}

impl<T: Unpin> HttpBody for UntilSent<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose peer must not stop reading for too long.
struct Impatient<S> {
    stream: S,
    write_pause: Duration,
    /// Runs while the peer reads nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let pause = self.write_pause;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(pause)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_who_finds_no_place_is_as_long_as_it_says() {
        let (head, body) = FULL.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["status"], 503);
    }
}
