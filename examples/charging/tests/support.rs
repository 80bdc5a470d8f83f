//! Both services in this process, and requests to them.

use std::net::SocketAddr;

use charging::{map, stations};
use nudge_subscriber_kit::{Running, Service, Settings};
use nudge_testbed::{PATIENCE, TestDatabase, eventually};
use reqwest::{Client, Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Where no broker is.
pub(crate) const NO_BROKER: &str = "nats://127.0.0.1:1";

/// A service on a database of its own. Stopped when dropped.
pub(crate) struct Program {
    pub(crate) service: Running,
    http: Client,
    stop: CancellationToken,
    _database: TestDatabase,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The fields that a problem names.
    pub(crate) fn wrong(&self) -> Vec<&str> {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status);
        let errors = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        errors.iter().map(|error| error["field"].as_str().unwrap()).collect()
    }
}

impl Program {
    async fn start(service: Service, nats: &str, more: &[String]) -> Self {
        nudge_testbed::logs();
        let database = TestDatabase::new().await;
        let own = ["program".to_owned(), "--bind=127.0.0.1:0".to_owned()];
        let at = [format!("--nats-url={nats}"), format!("--database-url={}", database.url())];
        let words = own.into_iter().chain(at).chain(more.iter().cloned());
        let stop = CancellationToken::new();
        let service = service.start(words, stop.clone()).await.expect("it starts");
        Self { service, http: Client::new(), stop, _database: database }
    }

    /// The owner.
    pub(crate) async fn stations(nats: &str) -> Self {
        Self::start(stations::service(), nats, &[]).await
    }

    /// The map, which finds the owner at this address. It waits as long as a test does for an answer, and
    /// compares nothing, since that asks the owner, too.
    pub(crate) async fn map(nats: &str, owner: SocketAddr) -> Self {
        let settings = Settings { fetch_timeout: PATIENCE, ..Settings::default() };
        let service = map::service().subscriber(move |builder| builder.settings(settings));
        let more = [format!("--station-owner-url=http://{owner}"), "--resync-percent=0".to_owned()];
        Self::start(service, nats, &more).await
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.service.address))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    /// Reports what a charger is doing.
    pub(crate) async fn report(&self, station: &str, charger: &str, state: &str) -> Answer {
        let path = format!("/stations/{station}/chargers/{charger}");
        self.put(&path, &json!({ "state": state })).await
    }

    /// A metric of stations.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text =
            self.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        let series = format!("{name}{{entity=\"station\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
    }

    /// Waits until the broker has delivered everything to this subscriber, and, with `idle`, until all of
    /// it is handled.
    pub(crate) async fn delivered(&self, idle: bool) {
        let fields: &[_] =
            if idle { &["stream_pending", "queued", "processing"] } else { &["stream_pending"] };
        eventually("everything is delivered", || async {
            let status = self.get("/nudge/v1/status").await.body["entities"][0].take();
            let done = fields.iter().all(|field| status[*field] == 0);
            (done && status["connected"] == true).then_some(())
        })
        .await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.expect("a whole answer");
    Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or_default() }
}

/// A station with chargers, each given as ID, connector, power in kW and state.
pub(crate) fn station(at: (f64, f64), chargers: &[(&str, &str, f64, &str)]) -> Value {
    let charger = |(id, connector, power, state): &(&str, &str, f64, &str)| json!({"id": id, "connector": connector, "power_kw": power, "state": state});
    let chargers: Vec<_> = chargers.iter().map(charger).collect();
    json!({"name": "시청역", "operator": "A", "latitude": at.0, "longitude": at.1, "chargers": chargers})
}
