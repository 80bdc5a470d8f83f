//! A small subscriber of `thing`s: the real kit, with an `apply` that can be made to fail.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use nudge_protocol::WriteToken;
use nudge_runtime::{
    BoxError, Broker, Database, Tx,
    database::{Durability, Migration},
    serve,
};
use nudge_subscriber_kit::{Apply, EntityState, Settings, Subscriber};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{Owner, eventually, owner::ENTITY};

const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "copies",
    sqlite: "CREATE TABLE copy (id TEXT PRIMARY KEY, version BIGINT NOT NULL, body TEXT NOT NULL)",
    postgres: "CREATE TABLE copy (id TEXT COLLATE \"C\" PRIMARY KEY, version BIGINT NOT NULL, body TEXT NOT NULL)",
}];

type Refuse = Arc<dyn Fn(&str) -> Option<BoxError> + Send + Sync>;

/// The handler: keeps each thing's whole body.
#[derive(Clone, Default)]
pub struct Keep {
    refuse: Arc<Mutex<Option<Refuse>>>,
    applied: Arc<Mutex<Vec<(String, u64)>>>,
}

impl Apply for Keep {
    type State = Value;

    async fn apply(&self, tx: &mut Tx, entities: &[EntityState<Value>]) -> Result<(), BoxError> {
        let refuse = self.refuse.lock().expect("not poisoned").clone();
        let mut rows = Vec::new();
        for entity in entities {
            if let Some(error) = refuse
                .as_ref()
                .and_then(|refuse| refuse(entity.id.as_str()))
            {
                return Err(error);
            }
            let body = entity.state.as_ref().map(Value::to_string);
            rows.push(serde_json::json!([entity.id, entity.version, body]));
        }
        let rows = Value::from(rows).to_string();
        let upsert = "INSERT INTO copy (id, version, body) \
             SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($1) WHERE value ->> 2 IS NOT NULL \
             ON CONFLICT (id) DO UPDATE SET version = excluded.version, body = excluded.body";
        sqlx::query(upsert)
            .bind(rows.clone())
            .execute(&mut **tx)
            .await?;
        let delete = "DELETE FROM copy WHERE id IN \
             (SELECT value ->> 0 FROM json_each($1) WHERE value ->> 2 IS NULL)";
        sqlx::query(delete).bind(rows).execute(&mut **tx).await?;
        let applied = entities.iter().map(|e| (e.id.to_string(), e.version.get()));
        self.applied.lock().expect("not poisoned").extend(applied);
        Ok(())
    }
}

/// See the module's description. Stopped when dropped.
pub struct Copy {
    /// The subscriber under test.
    pub subscriber: Subscriber,
    /// Its database.
    pub db: Database,
    keep: Keep,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    dir: Arc<TempDir>,
}

/// Settings with short waits, so that tests of retries are quick.
pub fn quick() -> Settings {
    let mut settings = Settings::default();
    settings.retry.initial = Duration::from_millis(20);
    settings.retry.max = Duration::from_millis(200);
    settings.parked_retry.initial = Duration::from_millis(300);
    settings.parked_retry.max = Duration::from_secs(1);
    settings.second_look_after = Duration::from_millis(200);
    settings.fetch_timeout = Duration::from_secs(1);
    settings.queue.min_distance = Duration::from_millis(20);
    settings
}

impl Copy {
    /// Starts a subscriber of `owner` on a new database.
    pub async fn start(broker: &Broker, owner: &Owner) -> Self {
        Self::start_with(broker, owner, quick()).await
    }

    /// [`start`](Self::start) with other settings.
    pub async fn start_with(broker: &Broker, owner: &Owner, settings: Settings) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        Self::start_in(dir, broker, owner, settings, Keep::default()).await
    }

    async fn start_in(
        dir: Arc<TempDir>,
        broker: &Broker,
        owner: &Owner,
        settings: Settings,
        keep: Keep,
    ) -> Self {
        let url = format!("sqlite:{}", dir.path().join("copy.db").display());
        let db = Database::open(&url, Durability::Refillable)
            .await
            .expect("the database opens");
        db.migrate("copies", MIGRATIONS)
            .await
            .expect("the tables are made");
        let stop = CancellationToken::new();
        let subscriber = Subscriber::builder("copies", &db, broker)
            .follow(ENTITY, &owner.url(), keep.clone())
            .settings(settings)
            .start(stop.clone())
            .await
            .expect("the subscriber starts");
        let listener = serve::bind("127.0.0.1:0".parse().expect("an address"))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve::serve(listener, subscriber.router(), stop.clone()));
        Self {
            subscriber,
            db,
            keep,
            address,
            stop,
            dir,
        }
    }

    /// A second replica on the same database.
    pub async fn replica(&self, broker: &Broker, owner: &Owner) -> Self {
        Self::start_in(self.dir.clone(), broker, owner, quick(), Keep::default()).await
    }

    /// Stops gracefully, and starts again on the same database.
    pub async fn restart(self, broker: &Broker, owner: &Owner) -> Self {
        let (dir, keep) = (self.dir.clone(), self.keep.clone());
        self.stop().await;
        Self::start_in(dir, broker, owner, quick(), keep).await
    }

    /// Stops gracefully. Returns where the database file was.
    pub async fn stop(self) -> PathBuf {
        self.stop.cancel();
        self.subscriber.stopped().await;
        self.db.close().await;
        self.dir.path().join("copy.db")
    }

    /// The address of `/nudge/v1/{path}`.
    pub fn admin(&self, path: &str) -> String {
        format!("http://{}/nudge/v1/{path}", self.address)
    }

    /// `GET /nudge/v1/{path}` as JSON, whatever the status.
    pub async fn get(&self, path: &str) -> Value {
        let response = reqwest::get(self.admin(path)).await.expect("an answer");
        response.json().await.expect("JSON")
    }

    /// The status of the one followed entity.
    pub async fn status(&self) -> Value {
        self.get("status").await["entities"][0].clone()
    }

    /// Makes `apply` fail for the ids for which `refuse` gives an error.
    pub fn refuse(&self, refuse: impl Fn(&str) -> Option<BoxError> + Send + Sync + 'static) {
        *self.keep.refuse.lock().expect("not poisoned") = Some(Arc::new(refuse));
    }

    /// Makes `apply` work again.
    pub fn accept(&self) {
        *self.keep.refuse.lock().expect("not poisoned") = None;
    }

    /// Every (id, version) that reached `apply`, in order. Includes work that was rolled back.
    pub fn applied(&self) -> Vec<(String, u64)> {
        self.keep.applied.lock().expect("not poisoned").clone()
    }

    /// Every copy there is, in the order of ids.
    pub async fn all(&self) -> Vec<(String, String)> {
        let query = sqlx::query_as("SELECT id, body FROM copy ORDER BY id");
        query
            .fetch_all(self.db.reader())
            .await
            .expect("copies are read")
    }

    /// One copy's body.
    pub async fn body(&self, id: &str) -> Option<Value> {
        let query = sqlx::query_as("SELECT body FROM copy WHERE id = $1").bind(id.to_owned());
        let row: Option<(String,)> = query.fetch_optional(self.db.reader()).await.expect("read");
        row.map(|(body,)| serde_json::from_str(&body).expect("JSON"))
    }

    /// Waits until a write is applied.
    pub async fn wait(&self, token: &WriteToken) {
        eventually(&format!("{token} is applied"), || async {
            let path = format!(
                "applied/{}/{}",
                token.entity,
                nudge_protocol::subject::encode_token(&token.id)
            );
            let applied = self.get(&path).await;
            (applied["version"].as_u64()? >= token.version.get()).then_some(())
        })
        .await;
    }

    /// Waits until every copy equals the owner's thing, and nothing else is there.
    pub async fn converged(&self, owner: &Owner) {
        eventually("the copies equal the owner's things", || async {
            (self.all().await == owner.all().await).then_some(())
        })
        .await;
    }

    /// Waits until no work is queued or under way and the broker has nothing left.
    pub async fn quiet(&self) {
        eventually("the subscriber is quiet", || async {
            let status = self.status().await;
            let idle = ["queued", "processing", "stream_pending"]
                .iter()
                .all(|f| status[*f] == 0);
            (idle && status["connected"] == true).then_some(())
        })
        .await;
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
