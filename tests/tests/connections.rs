//! Broken connections to the database, each of which only a new connection can replace.

mod once {
    use std::{os::unix::fs::PermissionsExt, path::Path};

    use futures_util::future::join_all;
    use nudge_runtime::database::Kind;
    use nudge_tests::{Nats, Postgres, Services, TestDatabase, database, eventually};
    use reqwest::{Method, StatusCode};
    use serde_json::{Value, json};

    /// More than the connections of one program.
    const AT_ONCE: usize = 12;

    /// The statuses of this many equal, parallel requests, so that all connections are used.
    async fn ask(
        services: &Services,
        method: Method,
        url: &str,
        body: Option<Value>,
    ) -> Vec<StatusCode> {
        let ask = async |n: usize| {
            let mut request = services.http.request(method.clone(), url);
            if let Some(body) = &body {
                let mut body = body.clone();
                body["description"] = json!(format!("as of request {n}"));
                request = request.json(&body);
            }
            request.send().await.expect("an answer").status()
        };
        join_all((0..AT_ONCE).map(ask)).await
    }

    /// Each connection caches each statement's plan, with the types of its columns.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_column_that_changes_its_type_stops_nobody() {
        let nats = Nats::start().await;
        let services = Services::start_on(&nats, Kind::Postgres).await;
        let store = services.store_info("/stores/42");
        let written = services.put_store("42", json!({"name": "달빛국수"})).await;
        let found = services.search("/stores?q=달빛");
        let reviews = services.review("/stores/42/reviews");
        let callback = services.store_info("/sync/v1/store/42");
        assert_eq!(services.found(&[("q", "달빛")], &written).await, ["42"]);
        let review = services.http.post(&reviews).header("Nudge-Token", written);
        let review = review.json(&json!({"rating": 5, "text": "a", "author": "b"}));
        assert_eq!(review.send().await.unwrap().status(), 201);
        let reads = [&store, &found, &reviews, &callback];
        // Twice, since the plans are cached anew after the first change.
        for name_type in ["varchar(200)", "text"] {
            ask(&services, Method::PATCH, &store, Some(json!({}))).await;
            for url in reads {
                assert_eq!(ask(&services, Method::GET, url, None).await, [200; AT_ONCE], "{url}");
            }
            for (database, table, column) in [
                (services.store_info_database(), "store", "name"),
                (services.search_database(), "store", "name"),
                (services.review_database(), "review", "text"),
            ] {
                let alter = format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE {name_type}");
                database::execute(database.url(), &alter).await;
            }
            let patched = ask(&services, Method::PATCH, &store, Some(json!({}))).await;
            assert_eq!(patched, [200; AT_ONCE]);
            for url in reads {
                assert_eq!(ask(&services, Method::GET, url, None).await, [200; AT_ONCE], "{url}");
            }
        }
    }

    /// Sessions that started while the database was read-only stay read-only.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_database_that_was_read_only_is_written_to_again_at_once() {
        let nats = Nats::start().await;
        let services = Services::start_on(&nats, Kind::Postgres).await;
        let store = services.store_info("/stores/42");
        services.put_store("42", json!({"name": "달빛국수"})).await;
        let url = services.store_info_database().url();
        let set = |how: &str| {
            let name = url.rsplit('/').next().unwrap();
            format!("ALTER DATABASE {name} {how}")
        };
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        database::execute(url, &set("SET default_transaction_read_only = on")).await;
        database::execute(url, cut).await;
        eventually("writes are refused", || async {
            let refused = ask(&services, Method::PATCH, &store, Some(json!({}))).await;
            (refused == [503; AT_ONCE]).then_some(())
        })
        .await;
        assert_eq!(ask(&services, Method::GET, &store, None).await, [200; AT_ONCE]);
        let reset =
            format!("BEGIN READ WRITE; {}; COMMIT", set("RESET default_transaction_read_only"));
        database::execute(url, &reset).await;
        let patched = ask(&services, Method::PATCH, &store, Some(json!({}))).await;
        assert_eq!(patched, [200; AT_ONCE]);
    }

    /// After a failover, the old address may lead to a standby that lags.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_standby_is_not_asked_and_is_once_it_is_the_primary() {
        let (nats, server) = (Nats::start().await, Postgres::start().await);
        let database = TestDatabase::on(&server).await;
        let services = Services::start_with_owner_on(&nats, database).await;
        services.put_store("42", json!({"name": "달빛국수"})).await;
        let store = services.store_info("/stores/42");
        let get = async || services.http.get(&store).send().await.expect("an answer").status();
        assert_eq!(get().await, 200);
        let mut directory = sqlx_one(server.url(), "SHOW data_directory").await;
        directory.push_str("/standby.signal");
        std::fs::write(&directory, "").expect("the data directory can be written to");
        let everyone = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(Path::new(&directory), everyone).expect("it is ours");
        server.stop().await;
        server.restart().await;
        assert_eq!(get().await, 503);
        database::execute(server.url(), "SELECT pg_promote()").await;
        assert_eq!(get().await, 200);
        services.put_store("42", json!({"name": "별빛우동"})).await;
    }

    async fn sqlx_one(url: &str, sql: &'static str) -> String {
        use sqlx::Connection;
        let mut connection = sqlx::AnyConnection::connect(url).await.expect("the server answers");
        let (text,) = sqlx::query_as(sql).fetch_one(&mut connection).await.expect("a row");
        text
    }
}
