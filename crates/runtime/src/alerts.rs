//! Tells an operator what needs one: a message of JSON to a webhook, to a subject on NATS, or to both.
//!
//! Each condition is told once; again only after it has ended and come back. At most [`MAX_PER_WINDOW`] messages are sent
//! in [`WINDOW`], and what is left out is counted in the next one. Nothing here ever blocks or fails the work: a message
//! waits in a bounded queue of its destination, is retried for about two minutes, and is then lost, which is counted.
//!
//! ```json
//! {"what": "dead-letter", "service": "search", "entity": "store", "id": "42", "since": "2026-11-30T01:02:03.000000Z",
//!  "what_to_do": "see why with `nudge dead-letters ls`, …", "left_out": 0}
//! ```
//!
//! A message says *that* something is wrong, never what an entity holds or what an error says.

mod open;
mod outlet;
mod what;

use std::{sync::Arc, time::Instant};

use clap::Args;
use nudge_protocol::{EntityId, EntityName};
use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    Broker, clock,
    secret::{self, Secret},
};
use open::{Condition, Open, Verdict};
pub use open::{MAX_OPEN, MAX_PER_WINDOW, WINDOW};
use outlet::Outlet;
pub use what::What;

/// Longest subject, in bytes.
const MAX_SUBJECT_BYTES: usize = 200;

/// Where to tell. Off unless set.
#[derive(Args, Clone, Debug, Default)]
pub struct AlertArgs {
    /// Send a message here, by POST, when something needs an operator: http://…
    #[arg(long, env = "ALERT_WEBHOOK_URL", hide_env_values = true, value_name = "URL", value_parser = secret::given(webhook_url))]
    pub alert_webhook_url: Option<Secret>,
    /// File with that URL
    #[arg(long, env = "ALERT_WEBHOOK_URL_FILE", value_name = "PATH", value_parser = secret::in_file(webhook_url), conflicts_with = "alert_webhook_url")]
    pub alert_webhook_url_file: Option<Secret>,
    /// Publish the same message on this NATS subject
    #[arg(long, env = "ALERT_SUBJECT", value_name = "SUBJECT", value_parser = alert_subject)]
    pub alert_subject: Option<String>,
}

/// The conditions of one service, and where they are told. Cloning is cheap and shares them.
#[derive(Clone, Debug, Default)]
pub struct Alerts(Option<Arc<Inner>>, Outcomes);

#[derive(Debug)]
struct Inner {
    service: String,
    open: Mutex<Open>,
    outlets: Vec<Outlet>,
}

/// How many messages were told, left out by the limit of the rate, or lost.
#[derive(Clone, Debug)]
struct Outcomes(Family<[(&'static str, &'static str); 1], Counter>);

const TOLD: &str = "told";
const LEFT_OUT: &str = "left-out";
const LOST: &str = "lost";

impl Default for Outcomes {
    fn default() -> Self {
        let outcomes = Self(Family::default());
        [TOLD, LEFT_OUT, LOST].into_iter().for_each(|outcome| outcomes.count(outcome, 0));
        outcomes
    }
}

impl Outcomes {
    fn count(&self, outcome: &'static str, by: u64) {
        self.0.get_or_create(&[("outcome", outcome)]).inc_by(by);
    }
}

impl Alerts {
    /// Tells the conditions of `service` as `args` say, until `stop`. Off if they say nothing: then nothing is kept, either.
    ///
    /// # Panics
    /// If it is not off, outside an async runtime.
    pub fn start(
        args: &AlertArgs,
        service: &str,
        broker: &Broker,
        stop: CancellationToken,
    ) -> Self {
        let outcomes = Outcomes::default();
        let url = args.alert_webhook_url.as_ref().or(args.alert_webhook_url_file.as_ref());
        let webhook = url.map(|url| outlet::webhook(url.expose()));
        let subject = args.alert_subject.as_ref().map(|subject| outlet::subject(broker, subject));
        let outlets: Vec<_> = webhook.into_iter().chain(subject).collect();
        if outlets.is_empty() {
            return Self(None, outcomes);
        }
        let spawn = |send| Outlet::spawn(send, outcomes.clone(), stop.clone());
        let outlets = outlets.into_iter().map(spawn).collect();
        let inner = Inner { service: service.to_owned(), open: Mutex::default(), outlets };
        let alerts = Self(Some(Arc::new(inner)), outcomes);
        let late = alerts.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(WINDOW).await;
                late.tell_left_out();
            }
        }));
        alerts
    }

    /// The conditions of one entity.
    pub fn of(&self, entity: &EntityName) -> Alarm {
        Alarm { alerts: self.clone(), entity: entity.clone() }
    }

    /// Adds the number of messages to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "nudge_alerts",
            "Messages to the operator: told, left out because there were too many, or lost because the destination did \
             not take them; bad: any left out or lost",
            self.1.0.clone(),
        );
    }

    fn raise(&self, condition: Condition) {
        let Some(inner) = &self.0 else { return };
        let body = {
            let mut open = inner.open.lock();
            match open.raise(&condition, Instant::now()) {
                Verdict::Known => return,
                Verdict::LeftOut => {
                    self.1.count(LEFT_OUT, 1);
                    return;
                }
                Verdict::Tell => inner.body(&condition, open.take_left_out()),
            }
        };
        inner.tell(&body, &self.1);
    }

    fn clear(&self, condition: &Condition) {
        if let Some(inner) = &self.0 {
            inner.open.lock().clear(condition);
        }
    }

    /// If the last ones were left out, no further message may ever say so.
    fn tell_left_out(&self) {
        let Some(inner) = &self.0 else { return };
        let left_out = inner.open.lock().take_left_out();
        if left_out > 0 {
            let body = json!({
                "what": "left-out", "service": inner.service, "since": clock::now(), "left_out": left_out,
                "what_to_do": "see `nudge status`: there was more to tell than is told in a minute",
            });
            inner.tell(&body, &self.1);
        }
    }
}

impl Inner {
    fn body(&self, condition: &Condition, left_out: u64) -> Value {
        let Condition { what, entity, id } = condition;
        let mut body = json!({
            "what": what.as_str(), "service": self.service, "entity": entity, "since": clock::now(),
            "what_to_do": what.what_to_do(), "left_out": left_out,
        });
        if let Some(id) = id {
            body["id"] = json!(id);
        }
        body
    }

    fn tell(&self, body: &Value, outcomes: &Outcomes) {
        let body: Arc<str> = body.to_string().into();
        for outlet in &self.outlets {
            if !outlet.take(body.clone()) {
                outcomes.count(LOST, 1);
            }
        }
    }
}

/// The conditions of one entity. Off by default. Cloning is cheap and shares them.
#[derive(Clone, Debug)]
pub struct Alarm {
    alerts: Alerts,
    entity: EntityName,
}

impl Alarm {
    /// Says that a condition holds, for one ID or for all of the entity. It is told, unless it was already.
    pub fn raise(&self, what: What, id: Option<&EntityId>) {
        if self.alerts.0.is_some() {
            self.alerts.raise(self.condition(what, id));
        }
    }

    /// Says that it does not hold any more: when it comes back, it is told again.
    pub fn clear(&self, what: What, id: Option<&EntityId>) {
        if self.alerts.0.is_some() {
            self.alerts.clear(&self.condition(what, id));
        }
    }

    /// The same for all IDs.
    pub fn clear_all(&self, what: What) {
        if let Some(inner) = &self.alerts.0 {
            inner.open.lock().clear_all(what, &self.entity);
        }
    }

    fn condition(&self, what: What, id: Option<&EntityId>) -> Condition {
        Condition { what, entity: self.entity.clone(), id: id.cloned() }
    }
}

fn webhook_url(text: &str) -> Result<String, String> {
    let url: axum::http::Uri = text.parse().map_err(|_| "is not a URL".to_owned())?;
    match (url.scheme_str(), url.host()) {
        (Some("http" | "https"), Some(_)) => Ok(text.to_owned()),
        _ => Err("must be http://host:port/path or https://…".into()),
    }
}

/// A subject of plain tokens that is none of Nudge's, whose messages mean something else, and none of the server's.
fn alert_subject(text: &str) -> Result<String, String> {
    let is_plain = |token: &str| {
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    match text.split('.').all(is_plain) && !text.starts_with("changes.") && text.len() <= MAX_SUBJECT_BYTES {
        true => Ok(text.to_owned()),
        false => Err("must be letters, digits, - and _, in parts separated by dots, and not begin with changes.".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_checked_when_it_is_set() {
        for good in ["http://127.0.0.1:9/", "http://host/hook?key=1", "https://host/"] {
            assert!(webhook_url(good).is_ok(), "{good}");
        }
        for bad in ["ftp://host/", "host", "http:///x", ""] {
            assert!(webhook_url(bad).is_err(), "{bad}");
        }
        for good in ["alerts", "ops.nudge-1.alerts_x"] {
            assert!(alert_subject(good).is_ok(), "{good}");
        }
        let long = "a".repeat(MAX_SUBJECT_BYTES + 1);
        for bad in ["", "a..b", "a b", "a.*", "a.>", "$SYS.x", "changes.store.42", &long] {
            assert!(alert_subject(bad).is_err(), "{bad}");
        }
    }
}
