//! The service in the simulation, with both of its entities in one database: reordered, lost and repeated
//! notifications, crashes at every effect, two replicas. What it shows is compared with what the two owners
//! say, joined here.

/// The simulation has its own databases, in memory, so it runs once, whatever database is under test.
mod once {
    use std::collections::BTreeMap;

    use nudge_protocol::{EntityId, Version};
    use nudge_runtime::{BoxError, Database, Tx};
    use nudge_simulation::{
        IDS, Mirrored, Profile, Random, Service, Simulation, State, States, seeds,
    };
    use serde_json::{Value, json};
    use storefront::{
        question::Filter,
        reviews::Reviews,
        stores::{self, StoreState},
        view::{Standing, View},
    };

    /// A store that no owner has.
    const NOWHERE: &str = "nowhere";

    fn kept_stores() -> Mirrored<StoreState> {
        Mirrored::new("store", stores::mirror, |random| {
            let name = *random.one_of(&["달빛국수", "별빛 김밥", "it's"]);
            let price = *random.one_of(&[7_000, 9_000]);
            json!({
                "name": name, "open": random.chance(500), "category": "cafe", "region": "마포구",
                "address": "", "neighbourhood": "", "phone": "02-123", "description": "",
                "min_order_amount": 0, "delivery_fee": price, "menus": [{"name": name, "price": price}],
            })
        })
    }

    /// Reviews of stores that are there, that are not there yet, that are deleted and come back; and of one
    /// that never was.
    struct RatedStores;

    impl Service for RatedStores {
        type Handler = Reviews;

        fn entity(&self) -> &'static str {
            "review"
        }

        fn handler(&self, _: &Database) -> Reviews {
            Reviews::new()
        }

        fn state(&self, random: &mut Random) -> Value {
            json!({
                "store_id": random.one_of(&[IDS[0], IDS[0], IDS[1], IDS[2], NOWHERE]),
                "rating": 1 + random.below(5), "text": random.one_of(&["좋아요", "it's"]),
                "author": "민지", "created_at": "2026-01-01T00:00:00.000000Z",
            })
        }

        async fn read(&self, tx: &mut Tx) -> Result<BTreeMap<String, Value>, sqlx::Error> {
            Reviews::new().mirror().read_all(tx).await
        }

        fn joined(&self, states: &BTreeMap<&'static str, States>) -> Value {
            let (stores, reviews) = (&states["store"], &states["review"]);
            let live = reviews.iter().filter_map(|(id, one)| Some((id, one.state.as_ref()?)));
            let live: Vec<_> = live.collect();
            let shown = |id: &str| {
                let of_it = live.iter().filter(|(_, review)| review["store_id"] == id);
                let of_it: Vec<_> = of_it.copied().collect();
                let standing = match stores.get(id) {
                    None => json!("unknown"),
                    Some(State { state: None, .. }) => json!("deleted"),
                    Some(State { version, state: Some(store) }) => {
                        page(id, *version, store, &of_it)
                    }
                };
                json!({"page": standing, "rating": [of_it.len(), sum(&of_it)]})
            };
            let names = stores.iter().filter_map(|(id, one)| Some((one.state.as_ref()?, id)));
            let mut list: Vec<_> =
                names.map(|(store, id)| (stores::name_key(&text(&store["name"])), id)).collect();
            list.sort();
            let list: Vec<_> = list.into_iter().map(|(_, id)| id).collect();
            json!({"stores": all().map(|id| (id, shown(id))).collect::<BTreeMap<_, _>>(), "list": list})
        }

        async fn read_joined(&self, db: &Database) -> Result<Value, BoxError> {
            let view = View::new(db.clone());
            let reading =
                sqlx::query_as("SELECT id, count, sum FROM rating").fetch_all(db.reader());
            let rows: Vec<(String, i64, i64)> = db.run(reading).await?;
            let ratings: BTreeMap<_, _> =
                rows.into_iter().map(|(id, count, sum)| (id, (count, sum))).collect();
            let mut shown = BTreeMap::new();
            for id in all() {
                let page = match view.page(&EntityId::new(id)?).await? {
                    Standing::Unknown => json!("unknown"),
                    Standing::Deleted => json!("deleted"),
                    Standing::There(page) => serde_json::to_value(page)?,
                };
                let (count, sum) = ratings.get(id).copied().unwrap_or_default();
                shown.insert(id, json!({"page": page, "rating": [count, sum]}));
            }
            let list = view.find(&Filter::default(), 100).await?;
            Ok(json!({"stores": shown, "list": list}))
        }
    }

    fn all() -> impl Iterator<Item = &'static str> {
        IDS.into_iter().chain([NOWHERE])
    }

    fn text(value: &Value) -> String {
        value.as_str().unwrap_or_default().to_owned()
    }

    fn sum(reviews: &[(&String, &Value)]) -> i64 {
        reviews.iter().filter_map(|(_, review)| review["rating"].as_i64()).sum()
    }

    /// The page of a store with these reviews.
    fn page(id: &str, version: u64, store: &Value, reviews: &[(&String, &Value)]) -> Value {
        let count = reviews.len();
        let mean = (count > 0).then(|| sum(reviews) as f64 / count as f64);
        let average = mean.map(|mean| (mean * 100.0).round() / 100.0);
        let newest = reviews.iter().rev().map(|(id, review)| {
            json!({
                "id": id, "rating": review["rating"], "text": review["text"],
                "author": review["author"], "created_at": review["created_at"],
            })
        });
        let mut page = store.clone();
        page["id"] = json!(id);
        page["version"] = json!(Version::new(version).expect("a version"));
        page["rating"] = json!({"average": average, "count": count});
        page["newest_reviews"] = newest.collect();
        page
    }

    #[test]
    fn pages_lists_and_ratings_are_what_both_owners_say_whatever_happens() {
        let storefront = Simulation::of("storefront", kept_stores()).also(RatedStores);
        for profile in Profile::ALL {
            storefront.explore(profile, seeds(0..20));
        }
    }
}
