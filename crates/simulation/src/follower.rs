//! A service in a run: its read model, and what runs on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::resume_unwind,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::Request,
};
use nudge_runtime::{Database, database::Driver};
use nudge_subscriber_kit::{Settings, Subscriber};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    broker::Broker,
    fate::Befalls,
    fault::Fault,
    history::History,
    link::Link,
    mutant::{
        self,
        apply::WrongApply,
        tables::{Table, plant},
    },
    node::Node,
    owner::{Client, Unanswered},
    plain::{Plain, database},
    read_model::ReadModel,
    service::AnyService,
};

/// Time allowed for a subscriber to report its status.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// An entity that no owner has.
const STRAY: &str = "key-stray";
/// Largest status, in bytes.
const MAX_STATUS_BYTES: usize = 1 << 20;

/// See the module documentation.
pub(crate) struct Follower {
    pub(crate) read_model: Arc<ReadModel>,
    /// The entities that cannot be applied.
    pub(crate) poison: Arc<Mutex<BTreeSet<String>>>,
    /// The entities that the owner cannot answer it for.
    pub(crate) unanswered: Unanswered,
    /// All of its tables, if they can be restored to an older copy: a virtual one cannot be copied row by
    /// row.
    pub(crate) tables: Vec<String>,
    /// Whether an edit of its rows can be noticed.
    pub(crate) can_be_read: bool,
    pub(crate) backed_up: AtomicBool,
    /// Its replicas as last started, and the program of each.
    replicas: Mutex<BTreeMap<usize, (Arc<Node>, Subscriber)>>,
}

impl Follower {
    /// Creates its tables. If there are several services, messages name it.
    pub(crate) async fn open(
        name: &str,
        service: Arc<dyn AnyService>,
        one_of_several: bool,
        history: Arc<History>,
        plain: Arc<Plain>,
    ) -> Self {
        let helper = &plain.runtime;
        let db = database(helper).await.with_driver(Driver::Stepped(plain.clone()));
        // The service migrates as it does in production, without a gate: on the helper.
        std::thread::scope(|scope| {
            let migrated = scope.spawn(|| helper.block_on(service.migrate(&db))).join();
            migrated.unwrap_or_else(|panic| resume_unwind(panic))
        })
        .expect("the service's tables are made");
        // So that the checker can read before the first subscriber has started.
        Subscriber::migrate(&db).await.expect("the kit's tables are made");
        let tables = tables(&db).await;
        plant(&db, Table::Applied, plain.world.mutant()).await;
        plant(&db, Table::DeadLetter, plain.world.mutant()).await;
        let (world, name) = (plain.world.clone(), name.to_owned());
        let whose = if one_of_several { format!("{name}: ") } else { String::new() };
        let read = db.run(service.can_be_read(&db)).await;
        let can_be_read = read.expect("the read model can be read");
        let (seen, edited) = (Mutex::default(), Mutex::default());
        let (held, looked) = (Mutex::default(), Mutex::default());
        let read_model =
            ReadModel { world, name, whose, service, db, history, seen, edited, held, looked };
        Self {
            read_model: Arc::new(read_model),
            poison: Arc::default(),
            unanswered: Arc::default(),
            tables,
            can_be_read,
            backed_up: AtomicBool::new(false),
            replicas: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.read_model.name
    }

    /// Starts a replica.
    pub(crate) async fn start(
        &self,
        replica: usize,
        link: Arc<Link>,
        client: Client,
        settings: Settings,
        stop: CancellationToken,
    ) {
        let ReadModel { db, service, .. } = &*self.read_model;
        let (node, read_model) = (link.node.clone(), self.read_model.clone());
        let db = db.clone().with_driver(Driver::Stepped(node.clone()));
        let mutant = node.world.mutant();
        let fate = Befalls {
            poison: self.poison.clone(),
            node: node.clone(),
            read_model: read_model.clone(),
            wrong: WrongApply::new(mutant),
            crashes_after: Mutex::new(false),
        };
        let (source, client) = mutant::subscriber(link, Arc::new(client), mutant);
        let builder = Subscriber::builder_from(self.name(), &db, source);
        let started = service
            .follow(builder, client, &db, Arc::new(fate))
            .after_commit(move || read_model.check())
            .settings(settings)
            .start(stop)
            .await;
        match started {
            // It crashed at work that a slow database finished, and the next has been started since.
            Ok(_) if node.is_dead() => {}
            Ok(subscriber) => drop(self.replicas.lock().insert(replica, (node, subscriber))),
            Err(error) => node.world.violated(format!("{} cannot start: {error}", node.name)),
        }
    }

    /// Somebody writes something else into the row of an entity, deletes it, or adds one.
    pub(crate) async fn edit(&self, id: &str) {
        let ReadModel { world, name, service, db, edited, history, .. } = &*self.read_model;
        let deletes = world.pick(Fault::RowEdited, 3) == 0;
        let state = world.with_random(|random| service.state(random));
        // Or adds one that nobody else knows of.
        let id = if world.pick(Fault::RowEdited, 4) == 0 { STRAY } else { id };
        let version = self.read_model.version_of(id);
        if version.is_none() {
            // The owner gives a tombstone to what it does not know.
            history.may_be_renewed();
        }
        edited.lock().insert(id.to_owned());
        let work = service.edit(db, id, version.unwrap_or(1), (!deletes).then_some(state));
        db.run(work).await.expect("the read model works");
        world.tell(format!("somebody edits the row of {id} at {name}"));
        world.works();
    }

    /// What a replica reports of differences of these kinds, if it has found any since it started.
    pub(crate) async fn reports(&self, kinds: &[&str]) -> Option<String> {
        let replicas = self.replicas.lock().clone();
        for (_, subscriber) in replicas.values() {
            let metrics = asked(subscriber, "/metrics").await?;
            let metrics = String::from_utf8_lossy(&metrics).into_owned();
            let is_kind =
                |line: &str| kinds.iter().any(|kind| line.contains(&format!("kind=\"{kind}\"")));
            let mut lines =
                metrics.lines().filter(|line| line.starts_with("nudge_resync_differences_total"));
            let found = lines.find(|line| is_kind(line) && !line.ends_with(" 0"));
            if let Some(line) = found {
                return Some(line.to_owned());
            }
        }
        None
    }

    /// The work it has left, if any.
    pub(crate) async fn left(&self) -> Option<String> {
        let (world, db) = (&self.read_model.world, &self.read_model.db);
        let looking = sqlx::query_as("SELECT consumer FROM nudge_intake");
        let row: Option<(String,)> =
            db.run(looking.fetch_optional(db.reader())).await.ok().flatten();
        let Some((consumer,)) = row else {
            return Some(format!("{} has no consumer", self.name()));
        };
        let unacknowledged =
            world.with_broker(|broker: &mut Broker| broker.unacknowledged(&consumer));
        if unacknowledged > 0 {
            return Some(format!("{} has not acknowledged {unacknowledged} messages", self.name()));
        }
        let replicas = self.replicas.lock().clone();
        for (node, subscriber) in replicas.values() {
            if let Some(left) = left_at(node, subscriber).await {
                return Some(format!("{} {left}", node.name));
            }
        }
        None
    }
}

/// The work that a replica reports as left, if any.
async fn left_at(node: &Node, subscriber: &Subscriber) -> Option<String> {
    if node.is_dead() {
        return Some("has ended".to_owned());
    }
    let Some(body) = asked(subscriber, "/nudge/v1/status").await else {
        return Some("does not report its status".to_owned());
    };
    let status: Value = serde_json::from_slice(&body).unwrap_or_default();
    ["queued", "processing", "retrying", "parked", "dead_letters"].into_iter().find_map(|figure| {
        let figures = &status["entities"][0][figure];
        (figures.as_u64() != Some(0)).then(|| format!("has {figures} keys {figure}"))
    })
}

/// What a replica answers.
async fn asked(subscriber: &Subscriber, path: &str) -> Option<Bytes> {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let answer = timeout(PATIENCE, subscriber.router().oneshot(request)).await.ok()?.ok()?;
    to_bytes(answer.into_body(), MAX_STATUS_BYTES).await.ok()
}

/// All tables of a read model, or none if one of them is virtual.
async fn tables(db: &Database) -> Vec<String> {
    let sql = "SELECT name, sql LIKE 'CREATE VIRTUAL%' FROM sqlite_master WHERE type = 'table' \
               AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'nudge_migrations_%' ORDER BY name";
    let looking = sqlx::query_as(sql).fetch_all(db.reader());
    let tables: Vec<(String, i64)> = db.run(looking).await.expect("the read model works");
    match tables.iter().any(|(_, is_virtual)| *is_virtual != 0) {
        true => Vec::new(),
        false => tables.into_iter().map(|(name, _)| name).collect(),
    }
}
