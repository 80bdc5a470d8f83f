//! What a line answers in place of a server that is unavailable.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n\
    Retry-After: 1\r\nConnection: close\r\nContent-Length: 95\r\n\r\n\
    {\"status\":503,\"title\":\"Service Unavailable\",\"detail\":\"a disturbed line answers for the server\"}";
/// How long a client may take to send its request and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers the request of a new connection, and closes it.
pub(super) async fn answer(mut near: TcpStream) {
    let exchange = async {
        let mut bytes = [0; 4_096];
        if near.read(&mut bytes).await? > 0 {
            near.write_all(ANSWER).await?;
            near.shutdown().await?;
            // To close before everything is read would take the answer back.
            while near.read(&mut bytes).await? > 0 {}
        }
        Ok::<_, std::io::Error>(())
    };
    // A client that hangs up has no use for an answer.
    let _ = tokio::time::timeout(PATIENCE, exchange).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{}", body.len());
        assert_eq!(body.matches("503").count(), 1);
    }
}
