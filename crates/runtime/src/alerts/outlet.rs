//! A destination of messages: its queue, and the task that sends them, one after the other.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{LOST, Outcomes, TOLD};
use crate::{BoxError, Broker, problem::chain};

/// Messages that wait for a destination. Further ones are lost.
const MAX_WAITING: usize = 100;
/// Longest wait for a destination to take a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How often a message is sent before it is lost: with the pauses in between, for one to two minutes.
const MAX_ATTEMPTS: u32 = 8;

type Sending = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;
/// Sends one message.
pub(super) type SendOne = Box<dyn Fn(Arc<str>) -> Sending + Send + Sync>;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Outlet(mpsc::Sender<Arc<str>>);

impl Outlet {
    pub(super) fn spawn(send: SendOne, outcomes: Outcomes, stop: CancellationToken) -> Self {
        let (queue, messages) = mpsc::channel(MAX_WAITING);
        tokio::spawn(stop.run_until_cancelled_owned(send_all(send, messages, outcomes)));
        Self(queue)
    }

    /// Puts a message into the queue, unless that is full. Never waits.
    pub(super) fn take(&self, body: Arc<str>) -> bool {
        self.0.try_send(body).is_ok()
    }
}

async fn send_all(send: SendOne, mut messages: mpsc::Receiver<Arc<str>>, outcomes: Outcomes) {
    while let Some(body) = messages.recv().await {
        let mut attempt = 1;
        loop {
            let sent = tokio::time::timeout(SEND_TIMEOUT, send(body.clone())).await;
            let error = match sent {
                Ok(Ok(())) => break outcomes.count(TOLD, 1),
                Ok(Err(error)) => chain(&*error).to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            if attempt == MAX_ATTEMPTS {
                tracing::warn!(%error, "a message to the operator is lost");
                break outcomes.count(LOST, 1);
            }
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(attempt - 1)).await;
            attempt += 1;
        }
    }
}

/// A webhook takes a message by answering with a 2xx.
pub(super) fn webhook(url: &str) -> SendOne {
    let client = crate::tls::http()
        .connect_timeout(SEND_TIMEOUT)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let url = url.to_owned();
    Box::new(move |body| {
        let request = client.as_ref().map(|client| {
            client.post(&url).header("content-type", "application/json").body(body.to_string())
        });
        let request = request.map_err(|error| error.to_string());
        Box::pin(async move {
            // The URL may hold a secret, and an error would repeat it.
            let answer = request?.send().await.map_err(reqwest::Error::without_url)?;
            match answer.status() {
                status if status.is_success() => Ok(()),
                status => Err(format!("the webhook answered {status}").into()),
            }
        })
    })
}

/// A subject on NATS takes a message by the server's answer to a ping behind it.
pub(super) fn subject(broker: &Broker, subject: &str) -> SendOne {
    let (broker, subject) = (broker.clone(), subject.to_owned());
    Box::new(move |body| {
        let (broker, subject) = (broker.clone(), subject.clone());
        Box::pin(async move {
            // Without a connection, the client would keep it, and each attempt once more.
            if !broker.is_connected() {
                return Err("the broker is unreachable".into());
            }
            broker.client.publish(subject, body.to_string().into()).await?;
            Ok(broker.client.flush().await?)
        })
    })
}
