//! Stores are edited with the database's own tools while the services run, and subscribers follow.

use nudge_runtime::database::Kind;
use nudge_tests::{Nats, Services, eventually, shell};
use serde_json::{Value, json};

/// Number of stores that one statement changes: as many as fit on a page of search results.
const MANY: usize = 100;

/// The services with two stores, `s1` and `s2`.
struct Edited {
    services: Services,
    _nats: Nats,
}

impl Edited {
    async fn new() -> Self {
        let nats = Nats::start().await;
        let services = Services::start(&nats).await;
        services.put_store("s1", json!({"name": "달빛국수", "open": true})).await;
        services.put_store("s2", json!({"name": "별빛김밥", "open": true})).await;
        let edited = Self { services, _nats: nats };
        edited.finds("달빛", &["s1"]).await;
        edited.finds("별빛", &["s2"]).await;
        edited
    }

    fn shell(&self, sql: &str) {
        shell::run(self.services.store_info_database().url(), sql);
    }

    async fn found(&self, query: &[(&str, &str)]) -> Vec<String> {
        let request = self.services.http.get(self.services.search("/stores")).query(query);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        let ids = answer["ids"].as_array().unwrap().iter();
        ids.map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    /// Waits until search finds exactly these stores by this text.
    async fn finds(&self, text: &str, expected: &[&str]) {
        eventually(&format!("{text} finds {expected:?}"), || async {
            (self.found(&[("q", text)]).await == expected).then_some(())
        })
        .await;
    }

    /// Waits until review answers with this status for this store: 410 once it is deleted.
    async fn reviewed(&self, id: &str, status: u16) {
        let url = self.services.review(&format!("/stores/{id}/reviews"));
        eventually(&format!("review answers {status} for {id}"), || async {
            let answer = self.services.http.get(&url).send().await.unwrap();
            (answer.status() == status).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_edited_in_the_databases_own_shell_are_followed() {
    let edited = Edited::new().await;
    edited.shell("UPDATE store SET name = '햇살국수' WHERE id = 's1'");
    edited.finds("햇살", &["s1"]).await;
    edited.finds("달빛", &[]).await;

    edited.shell(
        "INSERT INTO store_menu (store_id, position, name, price) VALUES ('s2', 0, '참치마요', 4500)",
    );
    edited.finds("참치마요", &["s2"]).await;

    edited.shell(
        "INSERT INTO store SELECT 's3', '새벽빵집', category, region, address, neighbourhood, phone, \
         description, open, min_order_amount, delivery_fee FROM store WHERE id = 's1'; \
         DELETE FROM store WHERE id = 's1'",
    );
    edited.finds("새벽빵", &["s3"]).await;
    edited.finds("햇살", &[]).await;
    edited.reviewed("s1", 410).await;

    // The service itself agrees, including the versions.
    let services = &edited.services;
    let gone = services.http.get(services.store_info("/stores/s1")).send().await.unwrap();
    assert_eq!(gone.status(), 410);
    let token = services.put_store("s3", json!({"name": "아침빵집", "open": true})).await;
    assert_eq!(services.found(&[("q", "아침빵")], &token).await, ["s3"]);
}

/// Statements that do not name what they change, or change much at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_and_rows_that_give_way_and_bulk_updates_in_the_shell_are_followed() {
    let edited = Edited::new().await;
    edited.shell("UPDATE store SET id = 's3' WHERE id = 's1'");
    edited.finds("달빛", &["s3"]).await;
    edited.reviewed("s1", 410).await;
    edited.reviewed("s3", 200).await;

    match edited.services.store_info_database().kind() {
        Kind::Sqlite => {
            edited.shell(
                "REPLACE INTO store SELECT 's2', '들꽃찻집', category, region, address, neighbourhood, \
                 phone, description, open, min_order_amount, delivery_fee FROM store WHERE id = 's3'",
            );
            edited.finds("들꽃찻", &["s2"]).await;
        }
        Kind::Postgres => {
            edited.shell("TRUNCATE store CASCADE");
            edited.reviewed("s2", 410).await;
            edited.reviewed("s3", 410).await;
            edited.finds("달빛", &[]).await;
        }
    }
    edited.finds("별빛", &[]).await;

    edited.shell(&format!(
        "INSERT INTO store WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {MANY}) \
         SELECT 'many-' || n, '바다횟집', 'new', '', '', '', '', '', 1, 0, 0 FROM n"
    ));
    for category in ["first", "second"] {
        edited.shell(&format!("UPDATE store SET category = '{category}' WHERE id LIKE 'many-%'"));
        eventually(&format!("all of them are found as {category}"), || async {
            let found = edited.found(&[("category", category), ("limit", "100")]).await;
            (found.len() == MANY).then_some(())
        })
        .await;
    }
}

/// SQLite's shell does not enforce foreign keys: rows that a delete leaves behind do not come back with the next store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn menus_that_a_shell_left_behind_do_not_come_back() {
    let edited = Edited::new().await;
    let (services, menu) = (&edited.services, json!([{"name": "국수", "price": 5000}]));
    let menus = async |id: &str| {
        let url = services.store_info(&format!("/stores/{id}"));
        let store: Value = services.http.get(url).send().await.unwrap().json().await.unwrap();
        store["menus"].clone()
    };
    services.put_store("s1", json!({"name": "달빛국수", "open": true, "menus": menu})).await;
    assert_eq!(menus("s1").await, menu);
    edited.shell("DELETE FROM store WHERE id = 's1'");
    edited.finds("달빛", &[]).await;
    services.put_store("s1", json!({"name": "달빛국수", "open": true})).await;
    assert_eq!(menus("s1").await, json!([]));
    edited.finds("달빛", &["s1"]).await;
    if services.store_info_database().kind() == Kind::Sqlite {
        edited.shell(
            "INSERT INTO store_menu (store_id, position, name, price) VALUES ('ghost', 0, 'x', 1)",
        );
        services.put_store("ghost", json!({"name": "유령", "menus": menu})).await;
        assert_eq!(menus("ghost").await, menu);
    }
}
