//! The subscriber on the kit: a mirror of things, without a full-text index.

use std::sync::Arc;

use nudge_runtime::{BoxError, Database};
use nudge_subscriber_kit::{Mirror, Running, Service};
use nudge_testbed::TestDatabase;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    PATIENCE, found,
    lag::Reader,
    metric,
    security::Access,
    thing::{ENTITY, Thing, id},
    world::{Owner, World},
};

/// A running subscriber on a database of its own.
pub(crate) struct Subscriber {
    /// Its read model.
    pub(crate) db: Database,
    /// Notified after each commit.
    pub(crate) commits: Arc<Notify>,
    name: &'static str,
    running: Running,
    stop: CancellationToken,
    _database: Arc<TestDatabase>,
}

impl Subscriber {
    /// Starts it, with this name.
    pub(crate) async fn start(
        world: &World,
        owner: &Owner,
        name: &'static str,
    ) -> Result<Self, BoxError> {
        Self::start_on(world, owner, name, Arc::new(world.database().await)).await
    }

    /// Starts it before its owner, which will be on this port and which everybody may ask.
    pub(crate) async fn of_an_owner_at(
        world: &World,
        port: u16,
        name: &'static str,
    ) -> Result<Self, BoxError> {
        let (url, database) = (format!("http://127.0.0.1:{port}"), world.database().await);
        Self::follow(world, &url, Access::Open, name, Arc::new(database)).await
    }

    /// Starts it on a database, which replicas share.
    pub(crate) async fn start_on(
        world: &World,
        owner: &Owner,
        name: &'static str,
        database: Arc<TestDatabase>,
    ) -> Result<Self, BoxError> {
        Self::follow(world, &owner.url, owner.access, name, database).await
    }

    async fn follow(
        world: &World,
        url: &str,
        access: Access,
        name: &'static str,
        database: Arc<TestDatabase>,
    ) -> Result<Self, BoxError> {
        let (commits, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let hook = commits.clone();
        let mut words = world.words(name, &database, access);
        words.push(format!("--{ENTITY}-owner-url={url}"));
        let running = Service::new(name)
            .follow(ENTITY, "http://127.0.0.1:1", Mirror::<Thing>::table("copy"))
            .subscriber(move |builder| builder.after_commit(move || hook.notify_one()))
            .start(words, stop.clone())
            .await?;
        let db = running.database.clone();
        Ok(Self { db, commits, name, running, stop, _database: database })
    }

    /// Stops it, and forgets at the broker that it was there.
    pub(crate) async fn stop(self, world: &World) -> Result<(), BoxError> {
        Self::stop_all(vec![self], world).await
    }

    /// Stops all of them before any is forgotten: replicas would take it for a fault.
    pub(crate) async fn stop_all(all: Vec<Self>, world: &World) -> Result<(), BoxError> {
        all.iter().for_each(|one| one.stop.cancel());
        let mut names = Vec::with_capacity(all.len());
        for one in all {
            one.running.stopped().await;
            names.push(one.name);
        }
        for name in names {
            world.forget(name).await?;
        }
        Ok(())
    }
}

impl Subscriber {
    /// Waits until it has begun to apply, and returns how many things it holds by then.
    pub(crate) async fn begun(&self) -> Result<usize, BoxError> {
        loop {
            match count(&self.db).await? {
                0 => timeout(PATIENCE, self.commits.notified()).await?,
                some => return Ok(some),
            }
        }
    }

    /// Waits until it holds so many things.
    pub(crate) async fn caught_up(&self, things: usize) -> Result<(), BoxError> {
        let last = id(things - 1);
        found("everything is applied", || async {
            // To count them takes time from what is measured: the last is mostly among the last that come.
            self.edition(&last).await.ok()??;
            (count(&self.db).await.ok()? >= things).then_some(())
        })
        .await
    }

    /// How many things a second it applies, from the first to the last of so many: its start makes tables and connections, which
    /// are there when the others begin.
    pub(crate) async fn drained(&self, things: usize) -> Result<f64, BoxError> {
        let (before, began) = (self.begun().await?, Instant::now());
        self.caught_up(things).await?;
        Ok(things.saturating_sub(before) as f64 / began.elapsed().as_secs_f64())
    }

    /// Waits until it has acknowledged all that is in the stream. Returns how many messages it was sent.
    pub(crate) async fn settled(&self, world: &World) -> Result<u64, BoxError> {
        let (stream, name) = (world.stream().await?, format!("{}-{ENTITY}", self.name));
        let last = stream.cached_info().state.last_sequence;
        found("everything is acknowledged", || async {
            let info = stream.consumer_info(&name).await.ok()?;
            let all = info.delivered.stream_sequence >= last && info.num_ack_pending == 0;
            all.then_some(info.delivered.consumer_sequence)
        })
        .await
    }

    /// How its read model is read.
    pub(crate) fn reader(&self) -> Reader {
        let (db, commits) = (self.db.clone(), Some(self.commits.clone()));
        Reader { db, table: "copy".to_owned(), edition: "edition", commits }
    }

    /// The edition of a thing, if it has it.
    pub(crate) async fn edition(&self, id: &str) -> Result<Option<i64>, BoxError> {
        self.reader().edition(id).await
    }

    /// Waits until it has this edition of a thing, or a newer one.
    pub(crate) async fn has(&self, id: &str, edition: i64) -> Result<(), BoxError> {
        found("the last edition is readable", || async {
            (self.edition(id).await.ok()? >= Some(edition)).then_some(())
        })
        .await
    }

    /// The value of a metric of the entity.
    pub(crate) async fn metric(&self, name: &str) -> Result<u64, BoxError> {
        metric(&self.metrics().await?, name, ENTITY)
    }

    /// How many callbacks have failed. That an owner is busy is no failure.
    pub(crate) async fn failures(&self) -> Result<u64, BoxError> {
        let text = self.metrics().await?;
        let outcomes = text.lines().filter_map(|line| {
            let (labels, count) =
                line.strip_prefix("nudge_callback_outcomes_total{")?.split_once("} ")?;
            let is_failure = !["answered", "busy"].iter().any(|good| labels.contains(good));
            is_failure.then(|| count.parse::<u64>())
        });
        Ok(outcomes.sum::<Result<u64, _>>()?)
    }

    async fn metrics(&self) -> Result<String, BoxError> {
        let text = reqwest::get(self.url("metrics")).await?.error_for_status()?.text().await?;
        Ok(text)
    }

    /// The address of one of its routes.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.running.address)
    }
}

/// How many things a read model holds, without those that are changed to measure how long it takes.
pub(crate) async fn count(db: &Database) -> Result<usize, BoxError> {
    let sql = "SELECT count(*) FROM copy WHERE id >= 'thing-' AND id < 'thing.'";
    let query = sqlx::query_as::<_, (i64,)>(sql);
    let (count,) = query.fetch_one(db.reader()).await?;
    Ok(usize::try_from(count)?)
}
