//! A service in a run: its database, and what runs on it.

use std::{
    collections::BTreeMap,
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
    cast::Member,
    contents::Contents,
    fate::Befalls,
    history::History,
    link::{Link, channel::Channels},
    mutant::{
        self,
        apply::WrongApply,
        tables::{Table, plant},
    },
    node::Node,
    owner::client::Client,
    plain::{Plain, database},
    read_model::ReadModel,
};

/// Time allowed for a subscriber to report its status.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// Largest status, in bytes.
const MAX_STATUS_BYTES: usize = 1 << 20;

/// See the module documentation.
pub(crate) struct Follower {
    pub(crate) name: String,
    pub(crate) db: Database,
    pub(crate) contents: Arc<Contents>,
    /// All of its tables, if they can be restored to an older copy: a virtual one cannot be copied row by
    /// row.
    pub(crate) tables: Vec<String>,
    pub(crate) backed_up: AtomicBool,
    /// Its replicas as last started, and the program of each.
    replicas: Mutex<BTreeMap<usize, (Arc<Node>, Subscriber)>>,
}

impl Follower {
    /// Creates its tables. If there are several services, messages name it.
    pub(crate) async fn open(
        Member { name, follows }: &Member,
        one_of_several: bool,
        history_of: impl Fn(&str) -> Arc<History>,
        plain: Arc<Plain>,
    ) -> Self {
        let (helper, world) = (&plain.runtime, &plain.world);
        let db = database(helper).await.with_driver(Driver::Stepped(plain.clone()));
        for service in follows {
            // The service migrates as it does in production, without a gate: on the helper.
            std::thread::scope(|scope| {
                let migrated = scope.spawn(|| helper.block_on(service.migrate(&db))).join();
                migrated.unwrap_or_else(|panic| resume_unwind(panic))
            })
            .expect("the service's tables are made");
        }
        // So that the checker can read before the first subscriber has started.
        Subscriber::migrate(&db).await.expect("the kit's tables are made");
        let tables = tables(&db).await;
        for table in [Table::Applied, Table::DeadLetter, Table::Intake] {
            plant(&db, table, world.mutant()).await;
        }
        let whose = if one_of_several { format!("{name}: ") } else { String::new() };
        let mut read_models = Vec::new();
        for service in follows {
            let history = history_of(service.entity());
            let (service, db) = (service.clone(), db.clone());
            read_models.push(ReadModel::new((name, &whose), service, db, history).await);
        }
        Self {
            name: name.clone(),
            db,
            contents: Contents::new(world.clone(), read_models),
            tables,
            backed_up: AtomicBool::new(false),
            replicas: Mutex::default(),
        }
    }

    /// Starts a replica. `clients` are its connections to the owners of what it follows, in that order.
    pub(crate) async fn start(
        &self,
        replica: usize,
        link: Arc<Link>,
        clients: Vec<Client>,
        settings: Settings,
        stop: CancellationToken,
    ) {
        let (node, contents) = (link.node.clone(), self.contents.clone());
        let db = self.db.clone().with_driver(Driver::Stepped(node.clone()));
        let mutant = node.world.mutant();
        let ports = mutant::Ports::of(link, mutant);
        let mut builder = Subscriber::builder_from(&self.name, &db, ports.source());
        for (read_model, client) in contents.read_models.iter().zip(clients) {
            let fate = Befalls {
                node: node.clone(),
                read_model: read_model.clone(),
                wrong: WrongApply::new(mutant),
                crashes_after: Mutex::new(false),
            };
            let client = ports.client(Arc::new(client));
            builder = read_model.service.follow(builder, client, &db, Arc::new(fate));
        }
        let started = builder.after_commit(move || contents.check()).settings(settings);
        match started.start(stop).await {
            // It crashed at work that a slow database finished, and the next has been started since.
            Ok(_) if node.is_dead() => {}
            Ok(subscriber) => drop(self.replicas.lock().insert(replica, (node, subscriber))),
            Err(error) => node.world.violated(format!("{} cannot start: {error}", node.name)),
        }
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
    pub(crate) async fn left(&self, channels: &Channels) -> Option<String> {
        let name = &self.name;
        for entity in self.contents.read_models.iter().map(|one| one.history().entity()) {
            let looking = sqlx::query_as("SELECT consumer FROM nudge_intake WHERE entity = $1");
            let looking = looking.bind(entity.as_str()).fetch_optional(self.db.reader());
            let row: Option<(String,)> = self.db.run(looking).await.ok().flatten();
            let Some((consumer,)) = row else {
                return Some(format!("{name} has no consumer of {entity}"));
            };
            let channel = channels.of(entity);
            let left = channel.with_broker(|broker| broker.unacknowledged(&consumer));
            if left > 0 {
                return Some(format!("{name} has not acknowledged {left} messages of {entity}"));
            }
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
    let figures = ["queued", "processing", "retrying", "parked", "dead_letters"];
    let entities = status["entities"].as_array().map_or(&[][..], Vec::as_slice);
    let mut left = entities.iter().flat_map(|one| figures.map(|figure| (one, figure)));
    if entities.is_empty() {
        return Some("names no entity in its status".to_owned());
    }
    left.find_map(|(one, figure)| {
        let (keys, entity) = (&one[figure], &one["entity"]);
        (keys.as_u64() != Some(0)).then(|| format!("has {keys} keys of {entity} {figure}"))
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
