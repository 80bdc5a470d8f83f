//! Rows that are no stores, written with SQL: SQLite keeps values of any type in any column.

/// PostgreSQL has one type for each column, and checks the encoding of texts.
mod once {
    use nudge_runtime::{Database, database::Durability};
    use serde_json::{Value, json};

    use crate::support::Api;

    /// `CAST(X'B0A1' AS TEXT)` is 가 as CP949 has it.
    const CP949: &str = "CAST(X'B0A1' AS TEXT)";

    /// Runs statements as another program would.
    async fn run(api: &Api, statements: &[String]) -> Result<(), sqlx::Error> {
        let db = Database::open(api.database_url(), Durability::Full).await.unwrap();
        let mut tx = db.begin().await?;
        for statement in statements {
            sqlx::query(sqlx::AssertSqlSafe(statement.clone())).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        db.close().await;
        Ok(())
    }

    /// As it was before there were triggers that refuse such values.
    async fn run_unchecked(api: &Api, statement: &str) {
        let drop = |name: &str| format!("DROP TRIGGER IF EXISTS {name}");
        let triggers = [
            "store_has_its_types",
            "store_has_its_types_when_made",
            "store_menu_has_its_types",
            "store_menu_has_its_types_when_made",
        ];
        let mut statements: Vec<_> = triggers.iter().map(|name| drop(name)).collect();
        statements.push(statement.to_owned());
        run(api, &statements).await.unwrap();
    }

    async fn stores(ids: &[&str]) -> Api {
        let api = Api::start().await;
        for id in ids {
            let body = json!({"name": "가게", "menus": [{"name": "국수", "price": 7000}]});
            assert_eq!(api.send("PUT", &format!("/stores/{id}"), body).await.status, 201);
        }
        api
    }

    /// Ids in the whole list, `limit` a page.
    async fn listed(api: &Api, limit: usize) -> Vec<String> {
        let (mut ids, mut after) = (Vec::new(), String::new());
        loop {
            let page = api.get(&format!("/stores?limit={limit}{after}")).await;
            assert_eq!(page.status, 200, "{page:?}");
            let items = page.json["items"].as_array().unwrap();
            ids.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            match page.json["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return ids,
            }
        }
    }

    #[tokio::test]
    async fn a_value_of_another_type_is_refused_and_one_that_can_be_converted_is_not() {
        let api = stores(&["a"]).await;
        let before = api.everything().await;
        for change in [
            "store SET open = 'yes'",
            "store SET open = NULL",
            "store SET min_order_amount = 1500.5",
            "store SET delivery_fee = 9e999",
            "store SET name = X'B0A1'",
            "store SET id = X'61'",
            "store_menu SET price = 'much'",
            "store_menu SET name = X'00'",
            "store_menu SET position = 0.5",
        ] {
            let refused = run(&api, &[format!("UPDATE {change}")]).await;
            assert!(refused.is_err(), "{change}");
        }
        let copy = |id: &str, open: &str| {
            format!(
                "INSERT INTO store SELECT {id}, name, category, region, address, neighbourhood, phone, \
                 description, {open}, min_order_amount, delivery_fee FROM store WHERE id = 'a'"
            )
        };
        assert!(run(&api, &[copy("X'62'", "1")]).await.is_err());
        assert!(run(&api, &[copy("'b'", "'yes'")]).await.is_err());
        assert_eq!(api.everything().await, before);
        let change = "UPDATE store SET open = '0', min_order_amount = 1500.0, name = 7";
        run(&api, &[change.to_owned(), copy("7", "1")]).await.unwrap();
        let store = api.get("/stores/a").await.json;
        assert_eq!((&store["open"], &store["min_order_amount"]), (&json!(false), &json!(1500)));
        assert_eq!(
            (&store["name"], listed(&api, 50).await),
            (&json!("7"), vec!["7".into(), "a".into()])
        );
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_spoils_no_other_and_can_be_replaced_or_deleted() {
        for (column, change) in [
            ("open", "UPDATE store SET open = 'yes'".to_owned()),
            ("min_order_amount", "UPDATE store SET min_order_amount = 1500.5".to_owned()),
            ("delivery_fee", format!("UPDATE store SET delivery_fee = {CP949}")),
            ("name", "UPDATE store SET name = X'B0A1'".to_owned()),
            ("region", format!("UPDATE store SET region = {CP949}")),
            ("menus", "UPDATE store_menu SET name = X'B0A1'".to_owned()),
            ("menus", format!("UPDATE store_menu SET name = {CP949}")),
            ("menus", "UPDATE store_menu SET price = 0.5".to_owned()),
            ("menus", "UPDATE store_menu SET price = 'much'".to_owned()),
        ] {
            let api = stores(&["a", "b", "c"]).await;
            let key =
                if column == "menus" && change.contains("store_menu") { "store_id" } else { "id" };
            // The first two, so that a page of one begins with rows that are left out.
            run_unchecked(&api, &format!("{change} WHERE {key} IN ('a', 'b')")).await;
            for limit in [1, 2, 50] {
                assert_eq!(listed(&api, limit).await, ["c"], "{change}");
            }
            spoils_no_callback(&api, column).await;
            can_be_replaced_or_deleted(&api).await;
        }
    }

    async fn spoils_no_callback(api: &Api, column: &str) {
        let batch = async |ids: Value| {
            api.send("POST", "/sync/v1/store/batch-get", json!({"ids": ids})).await
        };
        let answer = batch(json!(["a", "b", "c", "d"])).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let items = answer.json["items"].as_array().unwrap();
        let said: Vec<_> = items.iter().map(|item| (&item["id"], &item["status"])).collect();
        let (c, d) = (json!("c"), json!("d"));
        assert_eq!(said, [(&c, &json!("live")), (&d, &json!("unknown"))]);
        let alone = batch(json!(["a"])).await;
        for answer in [alone, api.get("/sync/v1/store/a").await, api.get("/stores/a").await] {
            answer.assert_problem(500, "");
            let detail = answer.json["detail"].as_str().unwrap();
            assert!(detail.contains("store a ") && detail.contains(column), "{detail}");
        }
        batch(json!(["a", "b"])).await.assert_problem(500, "");
        let items = api.send("POST", "/sync/v1/store/items", json!({})).await;
        assert_eq!(items.json["items"].as_array().unwrap().len(), 3);
        let metrics = api.get("/metrics").await.text;
        assert!(!metrics.contains("store_info_unreadable_rows_total 0\n"), "{metrics}");
    }

    async fn can_be_replaced_or_deleted(api: &Api) {
        assert_eq!(api.send("PATCH", "/stores/a", json!({"name": "새"})).await.status, 500);
        api.send("POST", "/stores", json!({"id": "a", "name": "새"}))
            .await
            .assert_problem(409, "id");
        assert_eq!(api.send("PUT", "/stores/a", json!({"name": "새"})).await.status, 200);
        assert_eq!(api.get("/stores/a").await.json["name"], "새");
        assert_eq!(api.import("{\"id\":\"b\",\"name\":\"새\"}\n").await.status, 200);
        assert_eq!(listed(api, 50).await, ["a", "b", "c"]);
        run_unchecked(api, "UPDATE store SET open = 'yes' WHERE id = 'b'").await;
        assert_eq!(api.delete("/stores/b").await.status, 204);
        assert_eq!(api.get("/stores/b").await.status, 410);
    }

    /// An id that nobody can ask for.
    #[tokio::test]
    async fn a_row_whose_id_is_none_is_left_out_of_every_list() {
        let api = stores(&["a", "z"]).await;
        // Without the triggers of capture, too: they may refuse it.
        let sql = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'nudge:%'";
        let db = Database::open(api.database_url(), Durability::Full).await.unwrap();
        let names: Vec<(String,)> = sqlx::query_as(sql).fetch_all(db.reader()).await.unwrap();
        db.close().await;
        let mut statements: Vec<_> =
            names.iter().map(|(name,)| format!("DROP TRIGGER \"{name}\"")).collect();
        for id in [CP949, "X'6162'", "'line' || char(10)"] {
            statements.push(format!(
                "INSERT INTO store SELECT {id}, name, category, region, address, neighbourhood, phone, \
                 description, open, min_order_amount, delivery_fee FROM store WHERE id = 'a'"
            ));
            statements.push(format!(
                "INSERT INTO nudge_change_log (entity, id, version, change, deleted, changed_at) \
                 VALUES ('store', CAST({id} AS TEXT), 1, 'created', 0, 1)"
            ));
        }
        let drop = |name: &str| format!("DROP TRIGGER {name}");
        statements.insert(0, drop("store_has_its_types_when_made"));
        run(&api, &statements).await.unwrap();
        for limit in [1, 2, 50] {
            assert_eq!(listed(&api, limit).await, ["a", "z"]);
        }
        let mut after = Value::Null;
        let mut ids = Vec::new();
        for _ in 0..10 {
            let body = json!({"limit": 1, "after": after});
            let page = api.send("POST", "/sync/v1/store/items", body).await;
            assert_eq!(page.status, 200, "{page:?}");
            let items = page.json["items"].as_array().unwrap();
            ids.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            after = page.json["next"].clone();
            if after.is_null() {
                break;
            }
        }
        // The bytes of the second are those of an id, and the log keeps them as a text.
        assert_eq!(ids, ["a", "ab", "z"]);
    }
}
