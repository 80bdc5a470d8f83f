//! The subscriber on the kit: a mirror of things, without a full-text index.

use std::sync::Arc;

use nudge_runtime::{BoxError, Database};
use nudge_subscriber_kit::{Mirror, Running, Service};
use nudge_testbed::{TestDatabase, eventually};
use reqwest::Response;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    lag::Reader,
    thing::{ENTITY, Thing, id},
    world::{Owner, World},
};

/// A running subscriber on a database of its own.
pub(crate) struct Subscriber {
    /// Its read model.
    pub(crate) db: Database,
    /// Notified after each commit.
    pub(crate) commits: Arc<Notify>,
    running: Running,
    stop: CancellationToken,
    _database: TestDatabase,
}

impl Subscriber {
    /// Starts it, with this name.
    pub(crate) async fn start(
        world: &World,
        owner: &Owner,
        name: &'static str,
    ) -> Result<Self, BoxError> {
        let (database, stop) = (world.database().await, CancellationToken::new());
        let commits = Arc::new(Notify::new());
        let hook = commits.clone();
        let mut words = world.words(name, &database, owner.access);
        words.push(format!("--{ENTITY}-owner-url={}", owner.url));
        let running = Service::new(name)
            .follow(ENTITY, "http://127.0.0.1:1", Mirror::<Thing>::table("copy"))
            .subscriber(move |builder| builder.after_commit(move || hook.notify_one()))
            .start(words, stop.clone())
            .await?;
        let db = running.database.clone();
        Ok(Self { db, commits, running, stop, _database: database })
    }

    /// Stops it, and forgets at the broker that it was there.
    pub(crate) async fn stop(self, world: &World) -> Result<(), BoxError> {
        self.stop.cancel();
        self.running.stopped().await;
        world.forget_consumers().await
    }
}

impl Subscriber {
    /// Waits until it has begun to apply, and returns how many things it holds by then.
    pub(crate) async fn begun(&self) -> Result<usize, BoxError> {
        loop {
            match count(&self.db).await? {
                0 => self.commits.notified().await,
                some => return Ok(some),
            }
        }
    }

    /// Waits until it holds so many things.
    pub(crate) async fn caught_up(&self, things: usize) {
        let last = id(things - 1);
        eventually("everything is applied", || async {
            // To count them takes time from what is measured: the last is mostly among the last that come.
            self.edition(&last).await.ok()??;
            (count(&self.db).await.ok()? >= things).then_some(())
        })
        .await;
    }

    /// How its read model is read.
    pub(crate) fn reader(&self) -> Reader {
        let (db, commits) = (self.db.clone(), self.commits.clone());
        Reader { db, table: "copy".to_owned(), edition: "edition", commits }
    }

    /// The edition of a thing, if it has it.
    pub(crate) async fn edition(&self, id: &str) -> Result<Option<i64>, BoxError> {
        self.reader().edition(id).await
    }

    /// Waits until it has this edition of a thing, or a newer one.
    pub(crate) async fn has(&self, id: &str, edition: i64) {
        eventually("the last edition is readable", || async {
            (self.edition(id).await.ok()? >= Some(edition)).then_some(())
        })
        .await;
    }

    /// The value of a metric of the entity.
    pub(crate) async fn metric(&self, name: &str) -> Result<u64, BoxError> {
        let text = self.get("metrics").await?.text().await?;
        let series = format!("{name}{{entity=\"{ENTITY}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        Ok(line.ok_or_else(|| format!("there is no metric {name}"))?.parse()?)
    }

    /// Whether it has nothing to do.
    pub(crate) async fn is_idle(&self) -> Result<bool, BoxError> {
        let status: Value = self.get("nudge/v1/status").await?.json().await?;
        let entity = &status["entities"][0];
        Ok(["queued", "processing", "stream_pending"].iter().all(|name| entity[*name] == 0))
    }

    /// An answer of its routes.
    pub(crate) async fn get(&self, path: &str) -> Result<Response, BoxError> {
        let url = format!("http://{}/{path}", self.running.address);
        Ok(reqwest::get(url).await?.error_for_status()?)
    }
}

/// How many things a read model holds.
pub(crate) async fn count(db: &Database) -> Result<usize, BoxError> {
    let query = sqlx::query_as::<_, (i64,)>("SELECT count(*) FROM copy");
    let (count,) = query.fetch_one(db.reader()).await?;
    Ok(usize::try_from(count)?)
}
