//! What somebody writes into the read model's own table is noticed, on both databases.

use nudge_runtime::database::Kind;
use nudge_subscriber_kit::testing;
use nudge_testbed::TestDatabase;
use search::read_model::Stores;
use serde_json::json;
use sqlx::AssertSqlSafe;

#[tokio::test]
async fn any_edit_of_a_store_is_noticed_and_nothing_else_is() {
    let database = TestDatabase::new().await;
    let model = testing::ReadModel::on(database.open().await, Stores).await;
    let state =
        || json!({"name": "달빛국수", "region": "마포구", "category": "korean", "open": true});
    assert!(!model.holds("a", state()).await, "it is not there yet");
    model.put("a", state()).await;
    assert!(model.holds("a", state()).await);
    assert!(model.holds("a", state()).await, "looking changes nothing");
    assert!(!model.holds("a", json!({"name": "별빛우동", "open": true})).await);

    let mut edits = vec![
        "name = 'somebody'",
        "category_written = 'x'",
        "region = ''",
        "open = 1 - open",
        "name_key = ''",
        "version = version + 1",
    ];
    edits.push(match model.database.kind() {
        Kind::Sqlite => "text_hash = text_hash + 1",
        Kind::Postgres => "words = to_tsvector('simple', 'x')",
    });
    for edit in edits {
        let sql = format!("UPDATE store SET {edit}");
        model.database.write(sqlx::query(AssertSqlSafe(sql))).await.unwrap();
        assert!(!model.holds("a", state()).await, "{edit}");
        model.put("a", state()).await;
        assert!(model.holds("a", state()).await, "{edit}");
    }
    model.database.write(sqlx::query("DELETE FROM store")).await.unwrap();
    assert!(!model.holds("a", state()).await);
}
