//! The map: which stations an area contains.

use std::collections::BTreeSet;

use charging::map::{
    StationState,
    area::{Area, cell},
    find::{Chargers, statement},
    http, mirror,
};
use nudge_chance::Random;
use nudge_runtime::database::Kind;
use nudge_subscriber_kit::{
    Mirror,
    testing::{Answer, ReadModel, get},
};
use nudge_testbed::TestDatabase;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::support::station;

struct World {
    map: ReadModel<Mirror<StationState>>,
    _database: TestDatabase,
}

impl World {
    async fn start() -> Self {
        let database = TestDatabase::new().await;
        let map = ReadModel::on(database.open().await, mirror()).await;
        Self { map, _database: database }
    }

    /// Stations without chargers.
    async fn with(stations: &[(&str, (f64, f64))]) -> Self {
        let world = Self::start().await;
        for (id, at) in stations {
            world.map.put(id, station(*at, &[])).await;
        }
        world
    }

    async fn get(&self, query: &str) -> Answer {
        let routes = http::routes().with_state(self.map.database.clone());
        get(routes, &format!("/stations?{query}")).await
    }

    async fn page(&self, query: &str) -> Value {
        let answer = self.get(query).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        let page = answer.json();
        let ids = page["items"].as_array().unwrap().iter().map(|item| item["id"].clone());
        assert_eq!(page["ids"], ids.collect::<Value>());
        page
    }

    async fn ids(&self, query: &str) -> Vec<String> {
        serde_json::from_value(self.page(query).await["ids"].clone()).unwrap()
    }
}

#[tokio::test]
async fn a_station_is_found_where_it_is_and_not_where_it_was() {
    let world = World::with(&[
        ("a", (37.5, 127.0)),
        ("b", (37.6, 127.1)),
        ("north", (37.61, 127.0)),
        ("east", (37.5, 127.11)),
    ])
    .await;
    let area = "south=37.5&west=127&north=37.6&east=127.1";
    assert_eq!(world.ids(area).await, ["a", "b"], "edges belong to it");
    world.map.put("a", station((37.7, 127.0), &[])).await;
    assert_eq!(world.ids(area).await, ["b"]);
    assert_eq!(world.ids("south=37.7&west=127&north=37.7&east=127").await, ["a"]);
    world.map.delete("b").await;
    assert_eq!(world.ids(area).await, [""; 0]);
}

#[tokio::test]
async fn an_area_may_lie_across_the_antimeridian_and_reach_a_pole() {
    let world = World::with(&[
        ("fiji", (-16.8, 179.9)),
        ("line", (-16.8, -180.0)),
        ("taveuni", (-16.8, -179.9)),
        ("pole", (90.0, 12.0)),
    ])
    .await;
    let across = "south=-17&west=179.5&north=-16.5&east=-179.5";
    assert_eq!(world.ids(across).await, ["line", "taveuni", "fiji"]);
    for (query, found) in [
        ("south=-17&west=179.5&north=-16.5&east=180", ["line", "fiji"]),
        ("south=-17&west=-180&north=-16.5&east=-179.5", ["line", "taveuni"]),
        ("south=-17&west=180&north=-16.5&east=-179.5", ["line", "taveuni"]),
    ] {
        assert_eq!(world.ids(query).await, found, "{query}");
    }
    assert_eq!(world.ids("south=89.5&west=11.5&north=90&east=12.5").await, ["pole"]);
    // The next page may begin on the other side.
    let first = world.page(&format!("{across}&limit=2")).await;
    let next = format!("{across}&after={}", first["next"].as_str().unwrap());
    assert_eq!(world.ids(&next).await, ["fiji"]);
}

#[tokio::test]
async fn one_charger_must_be_all_of_what_is_asked_for() {
    let world = World::start().await;
    let at = (37.5, 127.0);
    for (id, chargers) in [
        ("none", &[][..]),
        ("fast", &[("1", "ccs2", 350.0, "charging"), ("2", "ccs2", 150.0, "available")]),
        ("mixed", &[("1", "ccs2", 350.0, "out-of-order"), ("2", "type2", 7.4, "available")]),
    ] {
        world.map.put(id, station(at, chargers)).await;
    }
    let area = "south=37.5&west=127&north=37.5&east=127";
    for (query, expected) in [
        ("", json!([["fast", 2, 1], ["mixed", 2, 1], ["none", 0, 0]])),
        ("&available=false", json!([["fast", 2, 1], ["mixed", 2, 1], ["none", 0, 0]])),
        ("&available=true", json!([["fast", 2, 1], ["mixed", 2, 1]])),
        ("&connector=ccs2", json!([["fast", 2, 1], ["mixed", 1, 0]])),
        ("&connector=ccs2&available=true", json!([["fast", 2, 1]])),
        ("&connector=type2&min_power_kw=7.4", json!([["mixed", 1, 1]])),
        ("&connector=type2&min_power_kw=7.5", json!([])),
        ("&min_power_kw=200", json!([["fast", 1, 0], ["mixed", 1, 0]])),
        ("&min_power_kw=200&available=true", json!([])),
        ("&connector=%27%20OR%201%3D1", json!([])),
    ] {
        let page = world.page(&format!("{area}{query}")).await;
        let counts = |item: &Value| json!([item["id"], item["chargers"], item["free"]]);
        let counts: Value = page["items"].as_array().unwrap().iter().map(counts).collect();
        assert_eq!(counts, expected, "{query}");
    }
}

/// Compares with a look at every station, for random areas in a region that holds the antimeridian and the
/// equator.
#[tokio::test]
async fn the_pages_of_an_area_show_what_a_look_at_every_station_finds() {
    let (world, mut random) = (World::start().await, Random::new(7));
    let degrees = |random: &mut Random, span: u64| random.below(span * 100 + 1) as f64 / 100.0;
    let wrap = |longitude: f64| if longitude >= 180.0 { longitude - 360.0 } else { longitude };
    let mut all = Vec::new();
    for n in 0..400 {
        let at = (degrees(&mut random, 2) - 1.0, wrap(degrees(&mut random, 2) + 179.0));
        world.map.put(&n.to_string(), station(at, &[])).await;
        all.push((n.to_string(), at));
    }
    for _ in 0..60 {
        let (south, west) = (degrees(&mut random, 1) - 1.0, wrap(degrees(&mut random, 1) + 179.0));
        let (high, wide) = (degrees(&mut random, 1), degrees(&mut random, 1));
        let round = |degrees: f64| (degrees * 100.0).round() / 100.0;
        let (north, east) = (round(south + high * 0.99), round(wrap(west + wide * 0.99)));
        Area::new(south, west, north, east).unwrap();
        let within = |(latitude, longitude): (f64, f64)| {
            let between = match west <= east {
                true => west <= longitude && longitude <= east,
                false => west <= longitude || longitude <= east,
            };
            south <= latitude && latitude <= north && between
        };
        let there = all.iter().filter(|(_, at)| within(*at));
        let mut expected: Vec<_> =
            there.map(|(id, (latitude, longitude))| (cell(*latitude, *longitude), id)).collect();
        expected.sort();
        let area = format!("south={south}&west={west}&north={north}&east={east}");
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let limit = 1 + random.below(20);
            let page = world.page(&format!("{area}&limit={limit}{after}")).await;
            let ids: Vec<String> = serde_json::from_value(page["ids"].clone()).unwrap();
            assert!(ids.len() as u64 <= limit);
            found.extend(ids);
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        let expected: Vec<_> = expected.into_iter().map(|(_, id)| id.clone()).collect();
        assert_eq!(found, expected, "{area}");
        assert_eq!(BTreeSet::from_iter(&found).len(), found.len());
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_question_is_named() {
    let world = World::start().await;
    let long = "x".repeat(21);
    let area = "south=37&west=127&north=38&east=128";
    for (query, wrong) in [
        ("west=127&north=38&east=128".to_owned(), vec!["south"]),
        ("south=x&west=127&north=38&east=128".to_owned(), vec!["south"]),
        (
            "south=NaN&west=-181&north=inf&east=1e9".to_owned(),
            vec!["south", "west", "north", "east"],
        ),
        ("south=37&west=127&north=38.1&east=128.1".to_owned(), vec!["north", "east"]),
        ("south=38&west=127&north=37&east=128".to_owned(), vec!["north"]),
        ("south=0&west=-180&north=1&east=180".to_owned(), vec!["east"]),
        (format!("{area}&connector="), vec!["connector"]),
        (format!("{area}&connector={long}"), vec!["connector"]),
        (format!("{area}&connector=%00"), vec!["connector"]),
        (format!("{area}&min_power_kw=-1"), vec!["min_power_kw"]),
        (format!("{area}&min_power_kw=NaN"), vec!["min_power_kw"]),
        (format!("{area}&available=yes"), vec!["available"]),
        (format!("{area}&limit=0"), vec!["limit"]),
        (format!("{area}&limit=201&after=x"), vec!["limit", "after"]),
        (format!("{area}&after=1:%00"), vec!["after"]),
        (format!("{area}&near=here"), vec!["near"]),
    ] {
        let answer = world.get(&query).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.body);
        let problem = answer.json();
        let named = |error: &Value| error["field"].as_str().unwrap().to_owned();
        let named: Vec<_> = problem["errors"].as_array().unwrap().iter().map(named).collect();
        assert_eq!(named, wrong, "{query}");
    }
}

/// Both bounds of a strip are bounds of the index.
#[tokio::test]
async fn a_strip_is_one_range_of_the_index() {
    let world = World::start().await;
    let db = &world.map.database;
    let rows = "INSERT INTO station (id, name, operator, latitude, longitude, chargers, version, cell) \
        WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000) \
        SELECT CAST(n AS TEXT), '', '', 0, 0, '[]', 1, n % 1000 FROM n";
    db.write(sqlx::query(rows)).await.unwrap();
    db.write(sqlx::query("ANALYZE")).await.unwrap();
    let all = Chargers::default();
    let some = Chargers { available: true, ..Chargers::default() };
    for chargers in [all, some] {
        let sql = statement(db.kind(), &chargers);
        let explain = db.pick("EXPLAIN QUERY PLAN ", "EXPLAIN ");
        let mut query = sqlx::query(AssertSqlSafe(format!("{explain}{sql}")));
        query = query
            .bind(10_i64)
            .bind("")
            .bind(12_i64)
            .bind(0.0)
            .bind(1.0)
            .bind(0.0)
            .bind(1.0)
            .bind(51_i64);
        if chargers.available {
            query = query.bind("").bind(0.0);
        }
        let steps = query.fetch_all(db.reader()).await.unwrap();
        let column = if db.kind() == Kind::Sqlite { 3 } else { 0 };
        let text = |row: &sqlx::any::AnyRow| sqlx::Row::get::<String, _>(row, column);
        let plan = steps.iter().map(text).collect::<Vec<_>>().join("\n");
        println!("{plan}");
        let range = match db.kind() {
            Kind::Sqlite => "INDEX station_by_cell_id ((cell,id)>(?,?) AND cell<?)",
            Kind::Postgres => "station_by_cell_id",
        };
        assert!(plan.contains(range) && !plan.contains("TEMP B-TREE"), "{plan}");
        if db.kind() == Kind::Postgres {
            let bounds = ["Index Cond: ((ROW(cell, id) > ROW(", "(cell <= ", "(cell >= "];
            assert!(bounds.iter().all(|bound| plan.contains(bound)), "{plan}");
            // A poor estimate would have other processes help.
            assert!(!["Seq Scan", "Gather"].iter().any(|step| plan.contains(step)), "{plan}");
        }
    }
}
