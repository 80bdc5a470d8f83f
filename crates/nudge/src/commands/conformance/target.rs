//! The owner that is tried: requests to its sync API, and writes.

use std::time::Duration;

use nudge_protocol::{EntityId, EntityName, subject};
use nudge_runtime::{auth::Credentials, problem::chain};
use reqwest::{Client, Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};

use super::report::{Doubt, broken};

/// Longest wait for an answer: a subscriber waits no longer either.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// In the URL and the body of a write: the ID, percent-encoded, and the text that the state is to contain.
const ID: &str = "{id}";
const VALUE: &str = "{value}";

/// An owner of one kind of entity.
pub(super) struct Target {
    http: Client,
    credentials: Credentials,
    /// Where its calls are.
    base: String,
    /// Which kind.
    pub(super) entity: EntityName,
    write: Option<Write>,
}

/// How entities are written.
pub(super) struct Write {
    pub(super) url: String,
    pub(super) body: String,
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The value of a header, or nothing.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Its body as JSON; null if it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// One row of `items`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) version: u64,
    pub(super) deleted: bool,
}

impl Target {
    pub(super) fn new(
        owner: &str,
        entity: EntityName,
        write: Option<Write>,
        credentials: &Credentials,
    ) -> Self {
        // An owner may close the connection of a request that it refuses; the next one must not meet that.
        let http = credentials.http().no_proxy().timeout(ANSWER_TIMEOUT).pool_max_idle_per_host(0);
        let http = http.redirect(reqwest::redirect::Policy::none()).build();
        let base = format!("{}/sync/v1/{entity}", owner.trim_end_matches('/'));
        let http = http.expect("a client can be built");
        Self { http, credentials: credentials.clone(), base, entity, write }
    }

    /// Sends a request to a call of the sync API.
    pub(super) async fn send(
        &self,
        method: Method,
        call: &str,
        more: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, Doubt> {
        let url = format!("{}/{call}", self.base);
        answer(more(self.credentials.sign(self.http.request(method, &url))), call).await
    }

    /// Posts JSON to a call.
    pub(super) async fn post(&self, call: &str, body: &Value) -> Result<Answer, Doubt> {
        self.send(Method::POST, call, |request| request.json(body)).await
    }

    /// Posts JSON to a call that must succeed. Returns what it answers.
    pub(super) async fn ask(&self, call: &str, body: &Value) -> Result<Value, Doubt> {
        let answer = self.post(call, body).await?;
        match (answer.status, answer.json()) {
            (200, value @ Value::Object(_)) => Ok(value),
            (200, _) => {
                broken(format!("{call} is answered with something other than a JSON object"))
            }
            (status, _) => broken(format!("{call} is answered with {status}")),
        }
    }

    /// `GET` of an entity.
    pub(super) async fn get(&self, id: &str) -> Result<Answer, Doubt> {
        self.send(Method::GET, &token(id), |request| request).await
    }

    /// What it knows about these IDs, in their order.
    pub(super) async fn batch_get(&self, ids: &[String]) -> Result<Vec<Value>, Doubt> {
        let (mut left, mut found) = (ids.to_vec(), Vec::new());
        while !left.is_empty() {
            let answer = self.ask("batch-get", &json!({"ids": left})).await?;
            let Some(items) = answer["items"].as_array() else {
                return broken("the answer to batch-get has no list of items");
            };
            let before = left.len();
            for item in items {
                let id = item["id"].as_str().unwrap_or_default();
                match left.iter().position(|one| one == id) {
                    Some(place) => drop(left.swap_remove(place)),
                    None => {
                        return broken(format!(
                            "batch-get answers {id:?}, which was not asked, or answers it twice"
                        ));
                    }
                }
                found.push(item.clone());
            }
            if left.len() == before {
                return broken("batch-get answers none of the IDs that it is asked for");
            }
        }
        found.sort_by_key(|item| ids.iter().position(|id| item["id"] == **id));
        Ok(found)
    }

    /// What it knows about one ID.
    pub(super) async fn one(&self, id: &str) -> Result<Value, Doubt> {
        Ok(self.batch_get(&[id.to_owned()]).await?.swap_remove(0))
    }

    /// A page of its list, and where the next begins.
    pub(super) async fn items(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Row>, Option<String>), Doubt> {
        let mut request = json!({"limit": limit});
        if let Some(after) = after {
            request["after"] = after.into();
        }
        let answer = self.ask("items", &request).await?;
        let row = |item: &Value| {
            let id = item["id"].as_str()?.to_owned();
            Some(Row {
                id,
                version: item["version"].as_u64()?,
                deleted: item["deleted"].as_bool()?,
            })
        };
        let rows = answer["items"].as_array().map(|items| items.iter().map(row).collect());
        let Some(Some(rows)) = rows else {
            return broken("items answers something other than a list of {id, version, deleted}");
        };
        match &answer["next"] {
            Value::Null => Ok((rows, None)),
            Value::String(next) => Ok((rows, Some(next.clone()))),
            other => broken(format!("next is {other}, not an ID or null")),
        }
    }

    /// The entities with an ID above `after`, at most `most`.
    pub(super) async fn some(&self, after: &str, most: usize) -> Result<Vec<Row>, Doubt> {
        let after = Some(after).filter(|after| !after.is_empty());
        Ok(self.items(after, most.min(1_000)).await?.0)
    }

    /// Whether entities can be written.
    pub(super) fn writes(&self) -> Result<&Write, Doubt> {
        let none = || Doubt::NotTried("it needs writes: give --write-url".to_owned());
        self.write.as_ref().ok_or_else(none)
    }

    /// Writes an entity whose state contains `value`.
    pub(super) async fn put(&self, id: &str, value: &str) -> Result<(), Doubt> {
        let body = self.writes()?.body.replace(VALUE, value);
        let json =
            |request: RequestBuilder| request.header("Content-Type", "application/json").body(body);
        self.change(Method::PUT, id, json).await
    }

    /// Deletes an entity.
    pub(super) async fn delete(&self, id: &str) -> Result<(), Doubt> {
        self.change(Method::DELETE, id, |request| request).await
    }

    async fn change(
        &self,
        method: Method,
        id: &str,
        more: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<(), Doubt> {
        let url = self.writes()?.url.replace(ID, &token(id));
        let done = answer(
            more(self.credentials.sign(self.http.request(method.clone(), url))),
            "the write",
        )
        .await?;
        match done.status {
            200..=299 => Ok(()),
            // It is gone already.
            404 | 410 if method == Method::DELETE => Ok(()),
            status => {
                let said = String::from_utf8_lossy(&done.body).into_owned();
                Err(Doubt::NotTried(format!(
                    "{method} of {id:?} is answered with {status}: {said}"
                )))
            }
        }
    }
}

async fn answer(request: RequestBuilder, what: &str) -> Result<Answer, Doubt> {
    let no_answer = |error: reqwest::Error| Doubt::Broken(format!("{what}: {}", chain(&error)));
    let response = request.send().await.map_err(no_answer)?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.map_err(no_answer)?.to_vec();
    Ok(Answer { status, headers, body })
}

/// An ID as part of a URL. What is no ID is sent as it is.
pub(super) fn token(id: &str) -> String {
    EntityId::new(id).map_or_else(|_| id.to_owned(), |id| subject::encode_token(&id))
}

/// The version of an item of batch-get; 0 if it has none.
pub(super) fn version(item: &Value) -> u64 {
    item["version"].as_u64().unwrap_or_default()
}
