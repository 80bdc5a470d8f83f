//! Stores are edited with the database's own tools while the services run, and subscribers follow.

use std::process::Command;

use nudge_runtime::database::Kind;
use nudge_tests::{Nats, Services, TestDatabase, eventually};
use serde_json::{Value, json};

/// Runs statements in the shell that comes with the database.
fn shell(database: &TestDatabase, sql: &str) {
    let mut command = match database.kind() {
        // Python has SQLite built in.
        Kind::Sqlite => {
            let program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=30); \
                           c.executescript(sys.argv[2]); c.commit()";
            let mut command = Command::new("python3");
            command.args(["-c", program]).arg(database.url().trim_start_matches("sqlite:"));
            command.arg(sql);
            command
        }
        Kind::Postgres => {
            let mut command = Command::new("psql");
            command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--command", sql]);
            command.arg(database.url());
            command
        }
    };
    let output = command.output().expect("the shell runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn found(services: &Services, text: &str) -> Vec<String> {
    let request = services.http.get(services.search("/stores")).query(&[("q", text)]);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    let ids = answer["ids"].as_array().unwrap().iter();
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_edited_in_the_databases_own_shell_are_followed() {
    let nats = Nats::start().await;
    let services = Services::start(&nats).await;
    services.put_store("s1", json!({"name": "달빛국수", "open": true})).await;
    services.put_store("s2", json!({"name": "별빛김밥", "open": true})).await;
    let database = services.store_info_database();
    let follows = async |text: &str, expected: &[&str]| {
        eventually(&format!("{text} finds {expected:?}"), || async {
            (found(&services, text).await == expected).then_some(())
        })
        .await;
    };
    follows("달빛", &["s1"]).await;

    shell(database, "UPDATE store SET name = '햇살국수' WHERE id = 's1'");
    follows("햇살", &["s1"]).await;
    follows("달빛", &[]).await;

    shell(
        database,
        "INSERT INTO store_menu (store_id, position, name, price) VALUES ('s2', 0, '참치마요', 4500)",
    );
    follows("참치마요", &["s2"]).await;

    shell(
        database,
        "INSERT INTO store SELECT 's3', '새벽빵집', category, region, address, neighbourhood, phone, \
         description, open, min_order_amount, delivery_fee FROM store WHERE id = 's1'; \
         DELETE FROM store WHERE id = 's1'",
    );
    follows("새벽빵", &["s3"]).await;
    follows("햇살", &[]).await;
    let url = services.review("/stores/s1/reviews");
    eventually("review knows that it is gone", || async {
        (services.http.get(&url).send().await.unwrap().status() == 410).then_some(())
    })
    .await;

    // The service itself agrees, versions included.
    let gone = services.http.get(services.store_info("/stores/s1")).send().await.unwrap();
    assert_eq!(gone.status(), 410);
    let token = services.put_store("s3", json!({"name": "아침빵집", "open": true})).await;
    assert_eq!(services.found(&[("q", "아침빵")], &token).await, ["s3"]);
}
