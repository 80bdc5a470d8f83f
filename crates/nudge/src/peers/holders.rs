//! Who holds a consumer at the broker. It knows subscribers that nobody has named, and nothing of where they listen.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use nudge_protocol::{
    EntityName,
    subject::{consumer_service, stream_name},
};
use nudge_runtime::{Broker, problem};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Longest wait for the broker's answers.
const BROKER_TIMEOUT: Duration = Duration::from_secs(1);
/// Most streams, and most consumers of each, that are looked at.
const MAX_LOOKED_AT: usize = 1_000;

/// A subscriber as the broker knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// What the service calls itself.
    pub(crate) service: String,
    /// What it follows.
    pub(crate) entity: EntityName,
    /// Whether anybody asks for messages. Without that, it may have ended for good: a consumer outlives its service.
    pub(crate) pulling: bool,
    /// Messages that it has not received.
    pub(crate) pending: u64,
}

impl Holder {
    /// Several read models of one service are one subscriber, and those in use are what counts.
    fn or(self, other: Self) -> Self {
        match (self.pulling, other.pulling) {
            (true, false) => self,
            (false, true) => other,
            _ if self.pending <= other.pending => self,
            _ => other,
        }
    }
}

/// All that hold a consumer of an entity's stream.
pub(crate) async fn holders(broker: &Broker) -> Result<Vec<Holder>, Failure> {
    let late = |_| Failure::failed("the broker did not tell in time who holds a consumer");
    tokio::time::timeout(BROKER_TIMEOUT, look(broker)).await.map_err(late)?
}

async fn look(broker: &Broker) -> Result<Vec<Holder>, Failure> {
    let names: Vec<String> =
        broker.jetstream.stream_names().take(MAX_LOOKED_AT).try_collect().await.map_err(failed)?;
    let mut found = BTreeMap::<(String, String), Holder>::new();
    for entity in names.iter().filter_map(|name| entity_of(name)) {
        let stream = broker.jetstream.get_stream_no_info(stream_name(&entity)).await;
        let consumers = stream.map_err(failed)?.consumers().take(MAX_LOOKED_AT);
        let consumers: Vec<_> = consumers.try_collect().await.map_err(failed)?;
        for consumer in consumers {
            let Some(service) = consumer_service(&consumer.name, &entity) else { continue };
            let holder = Holder {
                service: service.to_owned(),
                entity: entity.clone(),
                pulling: consumer.num_waiting > 0,
                pending: consumer.num_pending,
            };
            let key = (holder.service.clone(), entity.to_string());
            let holder = match found.remove(&key) {
                Some(other) => holder.or(other),
                None => holder,
            };
            found.insert(key, holder);
        }
    }
    Ok(found.into_values().collect())
}

/// The entity whose changes a stream of this name carries.
fn entity_of(stream: &str) -> Option<EntityName> {
    EntityName::new(stream.strip_prefix("CHANGES_")?).ok()
}

fn failed(error: impl std::error::Error + 'static) -> Failure {
    Failure::failed(format!("the broker: {}", problem::chain(&error)))
}
