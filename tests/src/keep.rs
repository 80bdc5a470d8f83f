//! The `apply` of the copies: it keeps each thing's whole body, and can be made to fail or to wait.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use nudge_runtime::{
    BoxError, Tx,
    database::Kind,
    set_sql::{Column, rows},
};
use nudge_subscriber_kit::{Apply, EntityState};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use sqlx::AssertSqlSafe;
use tokio_util::sync::CancellationToken;

pub(crate) type Refuse = Arc<dyn Fn(&str) -> Option<BoxError> + Send + Sync>;

/// What a copy keeps of a thing: all of it. A thing with a field `unreadable` cannot be read, and one with a field
/// `panic` makes its reader panic.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
pub struct Body(Value);

impl TryFrom<Value> for Body {
    type Error = &'static str;

    fn try_from(body: Value) -> Result<Self, Self::Error> {
        assert!(body.get("panic").is_none(), "unreadable");
        match body.get("unreadable") {
            Some(_) => Err("unreadable"),
            None => Ok(Self(body)),
        }
    }
}

/// The handler: keeps each thing's whole body.
#[derive(Clone, Default)]
pub struct Keep {
    refuse: Arc<Mutex<Option<Refuse>>>,
    hold: Arc<Mutex<Option<Hold>>>,
    applied: Arc<Mutex<Vec<(String, u64)>>>,
    unreadable: Arc<Mutex<Option<String>>>,
}

impl Keep {
    pub(crate) fn hold(&self) -> Hold {
        let hold = Hold::default();
        *self.hold.lock() = Some(hold.clone());
        hold
    }

    pub(crate) fn refuse(&self, refuse: Option<Refuse>) {
        *self.refuse.lock() = refuse;
    }

    pub(crate) fn unreadable(&self, id: &str) {
        *self.unreadable.lock() = Some(id.to_owned());
    }

    pub(crate) fn applied(&self) -> Vec<(String, u64)> {
        self.applied.lock().clone()
    }
}

impl Apply for Keep {
    type State = Body;

    async fn apply(&self, tx: &mut Tx, entities: &[EntityState<Body>]) -> Result<(), BoxError> {
        let hold = self.hold.lock().clone();
        if let Some(hold) = hold {
            hold.begun.cancel();
            hold.end.cancelled().await;
        }
        let refuse = self.refuse.lock().clone();
        let mut kept = Vec::new();
        for entity in entities {
            if let Some(error) = refuse.as_ref().and_then(|refuse| refuse(entity.id.as_str())) {
                return Err(error);
            }
            let body = entity.state.as_ref().map(|body| body.0.to_string());
            let row = serde_json::json!({"id": entity.id, "version": entity.version, "body": body});
            kept.push(row);
        }
        let kept = Value::from(kept).to_string();
        let columns = [Column::Text("id"), Column::Int("version"), Column::Text("body")];
        let from = rows(Kind::of(tx), "$1", &columns);
        let upsert = format!(
            "INSERT INTO copy (id, version, body) \
             SELECT r.id, r.version, r.body FROM {from} WHERE r.body IS NOT NULL \
             ON CONFLICT (id) DO UPDATE SET version = excluded.version, body = excluded.body"
        );
        sqlx::query(AssertSqlSafe(upsert)).bind(kept.clone()).execute(&mut **tx).await?;
        let delete =
            format!("DELETE FROM copy WHERE id IN (SELECT r.id FROM {from} WHERE r.body IS NULL)");
        sqlx::query(AssertSqlSafe(delete)).bind(kept).execute(&mut **tx).await?;
        let applied = entities.iter().map(|e| (e.id.to_string(), e.version.get()));
        self.applied.lock().extend(applied);
        Ok(())
    }

    async fn read(
        &self,
        tx: &mut Tx,
        ids: &RangeInclusive<&str>,
    ) -> Result<Option<BTreeMap<String, Value>>, BoxError> {
        let sql = "SELECT id, version, body FROM copy WHERE id BETWEEN $1 AND $2";
        let query = sqlx::query_as(sql).bind(ids.start().to_string()).bind(ids.end().to_string());
        let rows: Vec<(String, i64, String)> = query.fetch_all(&mut **tx).await?;
        let unreadable = self.unreadable.lock().clone();
        if rows.iter().any(|(id, ..)| Some(id) == unreadable.as_ref()) {
            return Err("it cannot be read".into());
        }
        let row = |(id, version, body)| (id, serde_json::json!([version, body]));
        Ok(Some(rows.into_iter().map(row).collect()))
    }
}

/// Makes `apply` wait. See [`crate::Copy::hold`].
#[derive(Clone, Default)]
pub struct Hold {
    begun: CancellationToken,
    end: CancellationToken,
}

impl Hold {
    /// Whether an `apply` is waiting.
    pub fn begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Lets it continue, and those after it.
    pub fn end(&self) {
        self.end.cancel();
    }
}
