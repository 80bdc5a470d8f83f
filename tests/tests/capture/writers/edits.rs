//! What a writer does to shops, and what a callback returns for them.

use nudge_protocol::{Change, EntityId};
use nudge_publisher::{Owner, Recording};
use nudge_runtime::{BoxError, Tx, database::Kind};
use nudge_tests::id;
use serde_json::{json, value::RawValue};

use crate::capture::support::Shops;

/// The state of a shop that subscribers get: its name and its menus, which add up to 0.
pub(super) async fn state(tx: &mut Tx, key: &str) -> Result<Option<String>, sqlx::Error> {
    let sql = "SELECT name FROM shop WHERE id = $1";
    let shop: Option<(String,)> =
        sqlx::query_as(sql).bind(key.to_owned()).fetch_optional(&mut **tx).await?;
    let sql = "SELECT position, name FROM menu WHERE shop_id = $1 ORDER BY position";
    let menus: Vec<(i64, String)> =
        sqlx::query_as(sql).bind(key.to_owned()).fetch_all(&mut **tx).await?;
    Ok(shop.map(|(name,)| json!({"name": name, "menus": menus}).to_string()))
}

pub(super) fn adds_up(state: &str) -> bool {
    let state: serde_json::Value = serde_json::from_str(state).unwrap();
    let menus = state["menus"].as_array().unwrap().iter();
    menus.map(|menu| menu[1].as_str().unwrap().parse::<i64>().unwrap()).sum::<i64>() == 0
}

pub(super) struct Desk;

impl Owner for Desk {
    type State = Box<RawValue>;

    async fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<(EntityId, Box<RawValue>)>, BoxError> {
        let mut states = Vec::new();
        for id in ids {
            if let Some(state) = state(tx, id.as_str()).await? {
                states.push((id.clone(), RawValue::from_string(state)?));
            }
        }
        Ok(states)
    }
}

pub(super) async fn run(tx: &mut Tx, sql: String) -> Result<(), sqlx::Error> {
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut **tx).await.map(drop)
}

/// Moves an amount from one menu to another, in two statements, and sometimes changes the shop's name.
async fn edit(tx: &mut Tx, key: &str, amount: u64, name: bool) -> Result<(), sqlx::Error> {
    if name {
        run(tx, format!("UPDATE shop SET name = 'name {amount}' WHERE id = '{key}'")).await?;
    }
    for (position, change) in [(1, format!("+ {amount}")), (2, format!("- {amount}"))] {
        let value = format!("CAST(CAST(name AS BIGINT) {change} AS TEXT)");
        run(
            tx,
            format!(
                "UPDATE menu SET name = {value} WHERE shop_id = '{key}' AND position = {position}"
            ),
        )
        .await?;
    }
    Ok(())
}

/// One transaction.
pub(super) struct Work {
    pub(super) keys: Vec<String>,
    pub(super) amount: u64,
    pub(super) names: bool,
    pub(super) roll_back: bool,
}

/// Does the work in one transaction. Returns, for each shop, its place in the order of commits, version and state.
pub(super) async fn attempt(
    shops: &Shops<Recording>,
    captured: bool,
    in_order: bool,
    work: &Work,
) -> Result<Vec<(String, i64, i64, String)>, sqlx::Error> {
    let mut tx = shops.publisher.begin().await?;
    let mut done = Vec::new();
    if in_order && shops.db.kind() == Kind::Postgres {
        let keys = format!("'{}'", work.keys.join("', '"));
        let lock = format!("SELECT id FROM shop WHERE id IN ({keys}) ORDER BY id FOR UPDATE");
        run(&mut tx, lock).await?;
    }
    for key in &work.keys {
        edit(&mut tx, key, work.amount, work.names).await?;
        let key_id = id(key);
        if !captured {
            shops.publisher.record(&mut tx, &key_id, Change::Updated).await?;
        }
        let recorded = shops.publisher.recorded(&mut tx, std::slice::from_ref(&key_id)).await?;
        let next = "UPDATE place SET n = n + 1 WHERE shop_id = $1 RETURNING n";
        let (place,): (i64,) = sqlx::query_as(next).bind(key.clone()).fetch_one(&mut *tx).await?;
        let state = state(&mut tx, key).await?.ok_or(sqlx::Error::RowNotFound)?;
        done.push((key.clone(), place, recorded[&key_id].version.to_i64(), state));
    }
    if work.roll_back {
        tx.rollback().await?;
        return Ok(Vec::new());
    }
    shops.publisher.commit(tx).await?;
    Ok(done)
}
