//! The service's own `apply` in the simulation, for each of its two entities: reordered, lost and repeated notifications,
//! crashes at every effect, two replicas.

/// The simulation has its own databases, in memory, so it runs once, whatever database is under test.
mod once {
    use std::collections::BTreeMap;

    use nudge_runtime::{BoxError, Database, Tx};
    use nudge_simulation::{Mirrored, Profile, Random, Service, explore};
    use nudge_subscriber_kit::Apply;
    use serde_json::{Value, json};
    use storefront::{
        reviews::Reviews,
        stores::{self, StoreState},
    };

    fn kept_stores() -> Mirrored<StoreState> {
        Mirrored::new("store", stores::mirror, |random| {
            let name = *random.one_of(&["달빛국수", "별빛김밥", "it's"]);
            let price = *random.one_of(&[7_000, 9_000]);
            json!({
                "name": name, "open": random.chance(500), "category": "cafe", "region": "마포구",
                "address": "", "neighbourhood": "", "phone": "02-123", "description": "",
                "min_order_amount": 0, "delivery_fee": price, "menus": [{"name": name, "price": price}],
            })
        })
    }

    /// Reviews of a store that is there, of one that was deleted, and of one that nobody knows.
    struct RatedStores;

    impl Service for RatedStores {
        type Handler = Reviews;

        fn entity(&self) -> &'static str {
            "review"
        }

        async fn migrate(&self, db: &Database) -> Result<(), BoxError> {
            stores::mirror().prepare(db).await?;
            let sql = "INSERT INTO store (id, name, open, deleted) VALUES ('there', 'a', 1, 0), ('gone', '', 0, 1)";
            db.write(sqlx::query(sql)).await?;
            Ok(())
        }

        fn handler(&self, _: &Database) -> Reviews {
            Reviews::new()
        }

        fn state(&self, random: &mut Random) -> Value {
            json!({
                "store_id": random.one_of(&["there", "there", "gone", "unknown"]),
                "rating": 1 + random.below(5), "text": random.one_of(&["좋아요", "it's"]),
                "author": "민지", "created_at": "2026-01-01T00:00:00.000000Z",
            })
        }

        /// The review, and that its store's rating is the sum of what reviews say.
        fn expected(&self, state: &Value) -> Value {
            json!([state, "its store is rated right"])
        }

        async fn read(&self, tx: &mut Tx) -> Result<BTreeMap<String, Value>, sqlx::Error> {
            let reviews = Reviews::new().mirror().read_all(tx).await?;
            let sql = "SELECT id, count, sum FROM rating";
            let rows: Vec<(String, i64, i64)> = sqlx::query_as(sql).fetch_all(&mut **tx).await?;
            let mut wrong: BTreeMap<_, _> =
                rows.into_iter().map(|(store, count, sum)| (store, (count, sum))).collect();
            for review in reviews.values() {
                let store = review["store_id"].as_str().unwrap_or_default().to_owned();
                let (count, sum) = wrong.entry(store).or_default();
                (*count, *sum) = (*count - 1, *sum - review["rating"].as_i64().unwrap_or_default());
            }
            wrong.retain(|_, rest| *rest != (0, 0));
            let is_right = |review: &Value| match wrong.get(review["store_id"].as_str()?) {
                None => Some("its store is rated right"),
                Some(_) => None,
            };
            let row = |(id, review): (String, Value)| {
                let right = is_right(&review);
                (id, json!([review, right]))
            };
            let mut rows: BTreeMap<_, _> = reviews.into_iter().map(row).collect();
            // A store that has lost its reviews must have lost its rating.
            rows.extend(wrong.into_iter().map(|(store, rest)| (store, json!(rest))));
            Ok(rows)
        }
    }

    #[test]
    fn what_storefront_knows_of_stores_is_right_whatever_happens_to_messages_and_programs() {
        for profile in Profile::ALL {
            explore(kept_stores(), profile, 0..10);
        }
    }

    #[test]
    fn reviews_and_ratings_are_right_whatever_happens_to_messages_and_programs() {
        for profile in Profile::ALL {
            explore(RatedStores, profile, 0..20);
        }
    }
}
