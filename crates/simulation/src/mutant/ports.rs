//! Faults of a program that its ports can imitate: what it publishes, believes, acknowledges and asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use futures_util::{StreamExt, future::ready};
use nudge_protocol::{
    Change, EntityId, EntityName, Notification, Version,
    digest::{DigestAnswer, DigestRequest, RecentAnswer, RecentRequest, RenewRequest, Renewed},
    notification::parse_version_header,
    subject::decode_subject,
    sync_api::{Item, ItemStatus, ItemsPage, ItemsRequest},
};
use nudge_publisher::sink::{self, Message, Sink, Stored};
use nudge_runtime::BoxError;
use nudge_subscriber_kit::{
    owner_client::{self, Fetching, OwnerClient, Probing},
    source::{
        AckHandle, Asking, Consumer, ConsumerState, Deliveries, Delivery, Durable, Sending, Source,
    },
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Mutant;

/// A relay's connection to the stream.
pub(super) struct WrongSink {
    link: Arc<dyn Sink>,
    mutant: Mutant,
    /// The stream's last sequence when it was last looked at; at least 1.
    last_seq: AtomicU64,
    /// A connection that never reconnects.
    connections: watch::Sender<u64>,
}

impl WrongSink {
    pub(super) fn new(link: Arc<dyn Sink>, mutant: Mutant) -> Self {
        let connections = watch::Sender::new(1);
        Self { link, mutant, last_seq: AtomicU64::new(1), connections }
    }
}

impl Sink for WrongSink {
    fn ensure<'a>(&'a self, entity: &'a EntityName) -> sink::Asking<'a, sink::StreamInfo> {
        Box::pin(async move {
            let info = self.link.ensure(entity).await?;
            self.last_seq.store(info.last_seq.max(1), SeqCst);
            Ok(info)
        })
    }

    fn mend<'a>(&'a self, entity: &'a EntityName) -> sink::Asking<'a, Option<String>> {
        self.link.mend(entity)
    }

    fn publish<'a>(
        &'a self,
        entity: &'a EntityName,
        mut message: Message,
    ) -> sink::Asking<'a, u64> {
        Box::pin(async move {
            match self.mutant {
                Mutant::StateInMessage => {
                    message.body.truncate(message.body.len() - 1);
                    message.body.extend_from_slice(b",\"name\":\"x\"}");
                    self.link.publish(entity, message).await
                }
                // Acknowledged, and on its way.
                Mutant::MarkedBeforePublish => {
                    let (link, entity) = (self.link.clone(), entity.clone());
                    tokio::spawn(async move { link.publish(&entity, message).await });
                    Ok(self.last_seq.load(SeqCst))
                }
                Mutant::FailedPublishRecorded => {
                    let published = self.link.publish(entity, message).await;
                    Ok(published.unwrap_or(self.last_seq.load(SeqCst)))
                }
                _ => self.link.publish(entity, message).await,
            }
        })
    }

    fn beyond<'a>(
        &'a self,
        entity: &'a EntityName,
        sequence: u64,
        limit: usize,
    ) -> sink::Asking<'a, Vec<Stored>> {
        self.link.beyond(entity, sequence, limit)
    }

    fn look_up<'a>(
        &'a self,
        entity: &'a EntityName,
        subjects: Vec<String>,
    ) -> sink::Asking<'a, Option<sink::Looked>> {
        self.link.look_up(entity, subjects)
    }

    fn connections(&self) -> watch::Receiver<u64> {
        match self.mutant {
            Mutant::ReconnectUnnoticed => self.connections.subscribe(),
            _ => self.link.connections(),
        }
    }

    fn is_connected(&self) -> bool {
        self.link.is_connected()
    }
}

/// What all connections of a program share.
#[derive(Clone)]
pub(super) struct Wrong {
    mutant: Mutant,
    /// How often the program was started.
    life: u64,
    /// The entity that it asked the broker for first.
    first: Arc<OnceLock<EntityName>>,
    /// The IDs for which a callback is in progress.
    asking: Arc<Mutex<BTreeSet<EntityId>>>,
    /// The highest version that a message named of each ID, whichever its entity.
    told: Arc<Mutex<BTreeMap<EntityId, Version>>>,
}

impl Wrong {
    pub(super) fn new(mutant: Mutant, life: u64) -> Self {
        let (first, asking, told) = (Arc::default(), Arc::default(), Arc::default());
        Self { mutant, life, first, asking, told }
    }

    pub(super) fn source(&self, source: Arc<dyn Source>) -> Arc<dyn Source> {
        Arc::new(WrongSource { source, wrong: self.clone() })
    }

    pub(super) fn client(&self, client: Arc<dyn OwnerClient>) -> Arc<dyn OwnerClient> {
        Arc::new(WrongClient { client, wrong: self.clone() })
    }

    /// Whether an entity is not followed.
    fn omits(&self, entity: &EntityName) -> bool {
        let first = self.first.get_or_init(|| entity.clone());
        self.mutant == Mutant::OneEntityResumed && self.life > 1 && first != entity
    }

    /// Whether a message is thrown away; and it is noted.
    fn skips(&self, entity: &EntityName, message: &Delivery) -> bool {
        let Ok(id) = decode_subject(entity, &message.subject) else {
            return false;
        };
        let version = message.version.as_deref().and_then(|v| parse_version_header(v).ok());
        let mut told = self.told.lock();
        let newest = told.entry(id.clone()).or_default();
        let older = version.is_none_or(|version| version < *newest);
        *newest = version.unwrap_or_default().max(*newest);
        match self.mutant {
            Mutant::OlderMessageIgnored => older,
            Mutant::DeletedMessageBelieved => {
                let body = Notification::from_json(&message.body);
                body.is_ok_and(|body| body.change == Change::Deleted)
            }
            Mutant::DirtyMarkDropped => self.asking.lock().contains(&id),
            _ => false,
        }
    }

    /// What happens to a message on its way to the program.
    async fn pass(
        self,
        entity: EntityName,
        delivery: Result<Delivery, BoxError>,
    ) -> Option<Result<Delivery, BoxError>> {
        let mut message = match delivery {
            Ok(message) => message,
            lost => return Some(lost),
        };
        if self.skips(&entity, &message) {
            acknowledge(&mut message).await;
            return None;
        }
        match self.mutant {
            Mutant::AckBeforeApply => acknowledge(&mut message).await,
            Mutant::NeverAcknowledged => {
                let silent = |ack| Box::new(Silent(ack)) as Box<dyn AckHandle>;
                message.ack = message.ack.map(silent);
            }
            Mutant::FloorOfAnotherEntity => {
                let id = decode_subject(&entity, &message.subject).ok();
                let told = id.and_then(|id| self.told.lock().get(&id).copied());
                message.version = told.map(|told| told.to_string());
            }
            // Every answer is at least as new as that.
            Mutant::StaleAnswerAccepted => {
                let names_one = |text: &String| parse_version_header(text).is_ok();
                message.version = message
                    .version
                    .map(|text| if names_one(&text) { "1".to_owned() } else { text });
            }
            _ => {}
        }
        Some(Ok(message))
    }
}

async fn acknowledge(message: &mut Delivery) {
    if let Some(ack) = message.ack.take() {
        ack.ack().await;
    }
}

/// An acknowledgement that is never sent.
struct Silent(Box<dyn AckHandle>);

impl AckHandle for Silent {
    fn ack(&self) -> Sending<'_> {
        Box::pin(ready(()))
    }

    fn progress(&self) -> Sending<'_> {
        self.0.progress()
    }
}

struct WrongSource {
    source: Arc<dyn Source>,
    wrong: Wrong,
}

impl Source for WrongSource {
    fn open<'a>(&'a self, durable: Durable<'a>) -> Asking<'a, Arc<dyn Consumer>> {
        Box::pin(async move {
            let (entity, wrong) = (durable.entity.clone(), self.wrong.clone());
            if wrong.omits(&entity) {
                std::future::pending::<()>().await;
            }
            let consumer = self.source.open(durable).await?;
            Ok(Arc::new(WrongConsumer { consumer, entity, wrong }) as Arc<dyn Consumer>)
        })
    }

    fn connections(&self) -> watch::Receiver<u64> {
        self.source.connections()
    }

    fn is_connected(&self) -> bool {
        self.source.is_connected()
    }

    fn last_error(&self) -> Option<String> {
        self.source.last_error()
    }

    fn flush(&self) -> Asking<'_, ()> {
        self.source.flush()
    }
}

struct WrongConsumer {
    consumer: Arc<dyn Consumer>,
    entity: EntityName,
    wrong: Wrong,
}

impl WrongConsumer {
    fn wrong(&self, deliveries: Deliveries) -> Deliveries {
        let (wrong, entity) = (self.wrong.clone(), self.entity.clone());
        deliveries.filter_map(move |one| wrong.clone().pass(entity.clone(), one)).boxed()
    }
}

impl Consumer for WrongConsumer {
    fn opened(&self) -> &ConsumerState {
        self.consumer.opened()
    }

    fn state(&self) -> Asking<'_, ConsumerState> {
        self.consumer.state()
    }

    fn deliveries(&self) -> Asking<'_, Deliveries> {
        Box::pin(async { Ok(self.wrong(self.consumer.deliveries().await?)) })
    }

    fn again_from(&self, sequence: u64) -> Asking<'_, Deliveries> {
        Box::pin(async move { Ok(self.wrong(self.consumer.again_from(sequence).await?)) })
    }

    fn fresh(&self) -> Asking<'_, Deliveries> {
        Box::pin(async { Ok(self.wrong(self.consumer.fresh().await?)) })
    }
}

struct WrongClient {
    client: Arc<dyn OwnerClient>,
    wrong: Wrong,
}

impl OwnerClient for WrongClient {
    fn batch_get<'a>(
        &'a self,
        entity: &'a EntityName,
        ids: &'a [EntityId],
        fields: &'a [&'static str],
    ) -> Fetching<'a> {
        Box::pin(async move {
            if self.wrong.mutant == Mutant::AsksTwice {
                let _ = self.client.batch_get(entity, ids, fields).await;
            }
            self.wrong.asking.lock().extend(ids.iter().cloned());
            let answer = self.client.batch_get(entity, ids, fields).await;
            self.wrong.asking.lock().retain(|id| !ids.contains(id));
            let answer = answer?.into_iter();
            Ok(match self.wrong.mutant {
                Mutant::UnknownTakenForDelete => answer.map(|item| self.deleted(item)).collect(),
                _ => answer.collect(),
            })
        })
    }

    fn probe<'a>(&'a self, entity: &'a EntityName) -> Probing<'a> {
        self.client.probe(entity)
    }

    fn digest<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a DigestRequest,
    ) -> owner_client::Asking<'a, DigestAnswer> {
        Box::pin(async move {
            let mut answer = self.client.digest(entity, request).await?;
            match self.wrong.mutant {
                Mutant::NeverCompared => answer.in_flight = None,
                Mutant::InFlightIsADifference => answer.in_flight = Some(Vec::new()),
                Mutant::OverdueIgnored => {
                    answer.in_flight.iter_mut().flatten().for_each(|one| one.seconds = 0);
                }
                _ => {}
            }
            Ok(answer)
        })
    }

    fn recent<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a RecentRequest,
    ) -> owner_client::Asking<'a, RecentAnswer> {
        match self.wrong.mutant {
            Mutant::NeverCompared => Box::pin(ready(Ok(RecentAnswer { rows: None }))),
            _ => self.client.recent(entity, request),
        }
    }

    fn items<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a ItemsRequest,
    ) -> owner_client::Asking<'a, ItemsPage> {
        self.client.items(entity, request)
    }

    fn renew<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a RenewRequest,
    ) -> owner_client::Asking<'a, Renewed> {
        match self.wrong.mutant {
            Mutant::AheadNotReported => Box::pin(ready(Ok(Renewed::default()))),
            _ => self.client.renew(entity, request),
        }
    }
}

impl WrongClient {
    /// What is unknown, as if it were deleted.
    fn deleted(&self, item: Item) -> Item {
        if item.status != ItemStatus::Unknown {
            return item;
        }
        let told = self.wrong.told.lock().get(&item.id).copied().unwrap_or_default();
        let version = told.max(Version::new(1).expect("a version"));
        Item { status: ItemStatus::Deleted, version: Some(version), ..item }
    }
}
