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
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::timeout::TimeoutBody;

use super::{Limits, MAX_HEAD_BYTES, Peer, places::Place};
use crate::tls::Acceptor;

/// The complete answer if the listener is full. It is sent without reading the request.
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
     retry-after: 1\r\ncache-control: no-store\r\nconnection: close\r\ncontent-length: 93\r\n\r\n\
     {\"status\":503,\"title\":\"Service Unavailable\",\"detail\":\"too many requests are being answered\"}\n";

/// The complete answer to a request that is not encrypted.
const PLAIN: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n\
     cache-control: no-store\r\nconnection: close\r\ncontent-length: 79\r\n\r\n\
     {\"status\":400,\"title\":\"Bad Request\",\"detail\":\"use https://: this port is TLS\"}\n";

/// Time allowed for sending one of these answers.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(1);

/// Answers a connection that exceeds the limit.
pub(super) async fn refuse(stream: TcpStream, tls: Option<Acceptor>) {
    let Some(tls) = tls else { return answer(stream, FULL).await };
    if let Ok(Some(stream)) = tokio::time::timeout(REFUSAL_DEADLINE, encrypted(stream, tls)).await {
        answer(stream, FULL).await;
    }
}

/// Sends a complete answer without reading what was asked.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &str) {
    let answering = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        // Unread input would make the operating system reset the connection and discard the answer.
        let mut rest = [0; 4 * 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    let _ = tokio::time::timeout(REFUSAL_DEADLINE, answering).await;
}

/// The connection in TLS. Whoever does not speak it is told so.
async fn encrypted(stream: TcpStream, tls: Acceptor) -> Option<TlsStream<TcpStream>> {
    let accepted = match Acceptor::is_spoken_by(&stream).await {
        Ok(true) => tls.accept(stream).await,
        Ok(false) => {
            answer(stream, PLAIN).await;
            return None;
        }
        Err(error) => Err(error),
    };
    accepted.inspect_err(|error| tracing::debug!(%error, "a connection was not encrypted")).ok()
}

/// Serves one request after another, in TLS if there is an acceptor, until the peer goes away, takes too long or has to make
/// room. After `stop`, the request that is being answered is the last. A handshake has as much time as the head of a
/// request.
pub(super) async fn serve(
    stream: TcpStream,
    tls: Option<Acceptor>,
    router: Router,
    place: Arc<Place>,
    limits: Limits,
    stop: CancellationToken,
) {
    // Small answers must not wait for the peer's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    // One that is gone already is served to nobody.
    let Ok(from) = stream.peer_addr() else { return };
    let from = Peer(from.ip());
    let Some(tls) = tls else { return serve_on(stream, from, router, place, limits, stop).await };
    let encrypted = tokio::select! {
        encrypted = tokio::time::timeout(limits.head, encrypted(stream, tls)) => encrypted,
        () = place.give_way.cancelled() => return,
        () = stop.cancelled() => return,
    };
    match encrypted {
        Ok(Some(stream)) => serve_on(stream, from, router, place, limits, stop).await,
        Ok(None) => {}
        Err(_) => tracing::debug!("a handshake took too long"),
    }
}

async fn serve_on(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    from: Peer,
    router: Router,
    place: Arc<Place>,
    limits: Limits,
    stop: CancellationToken,
) {
    let give_way = place.give_way.clone();
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, at_work) = (router.clone(), place.at_work());
        let mut request: Request =
            request.map(|body| Body::new(TimeoutBody::new(limits.body_pause, body)));
        request.extensions_mut().insert(from);
        async move {
            let answer: Response = router.oneshot(request).await?;
            Ok::<_, Infallible>(answer.map(|body| UntilSent { body, _held: at_work }))
        }
    });
    let stream = Impatient { stream, write_pause: limits.write_pause, stalled: None };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(MAX_HEAD_BYTES);
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
    fn the_answer_to_who_is_not_served_is_as_long_as_it_says() {
        for (answer, status) in [(FULL, 503), (PLAIN, 400)] {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
            let problem: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(problem["status"], status);
        }
    }
}
