//! Measures the map alone: how long a page of an area takes among 1,000,000 stations, by the grid and by an
//! index over latitude and longitude.
//!
//! `cargo run --release -p charging --example measure -- sqlite:/tmp/map.db` (or `postgres://…`). An
//! empty database is filled first, which takes minutes.

use std::time::{Duration, Instant};

use charging::map::{
    area::{Area, cell},
    find::{Chargers, Question, find, statement},
    mirror,
};
use nudge_chance::Random;
use nudge_protocol::{EntityId, Version};
use nudge_runtime::{
    BoxError, Database, clock,
    database::{Durability, Kind},
};
use nudge_subscriber_kit::{Apply, EntityState, serde_json::json};
use sqlx::{AssertSqlSafe, Row, any::AnyRow, query, query_as};

const STATIONS: u64 = 1_000_000;
const BATCH: u64 = 5_000;
const CITIES: u64 = 20;
const PAGES: usize = 200;
/// Of a city, in degrees: 33 km from south to north, and about as many from west to east.
const CITY: (f64, f64) = (0.3, 0.4);
/// Areas: what they are, and their extent in degrees from south to north and from west to east.
const AREAS: [(&str, (f64, f64)); 3] =
    [("a city", CITY), ("a street", (0.01, 0.01)), (SEA, (1.0, 1.0))];
/// There are no stations, but many on the same latitudes.
const SEA: &str = "the sea";
/// The same page, found by an index over both coordinates.
const BY_COORDINATES: &str = "SELECT id, name, operator, latitude, longitude, chargers, version, cell \
    FROM station WHERE (latitude, longitude, id) > ($1, $2, '') AND latitude <= $3 AND longitude BETWEEN $2 AND $4 \
    ORDER BY latitude, longitude, id LIMIT 51";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let url = std::env::args().nth(1).ok_or("missing argument: the URL of a database")?;
    let db = Database::open(&url, Durability::Refillable).await?;
    mirror().prepare(&db).await?;
    let there: Option<(i64,)> =
        query_as("SELECT cell FROM station LIMIT 1").fetch_optional(db.reader()).await?;
    if there.is_none() {
        fill(&db).await?;
    }
    // A planner could prefer it for the other query.
    db.write(query("DROP INDEX IF EXISTS by_coordinates")).await?;
    by_grid(&db).await?;
    db.write(query("CREATE INDEX by_coordinates ON station (latitude, longitude, id)")).await?;
    by_coordinates(&db).await
}

async fn by_grid(db: &Database) -> Result<(), BoxError> {
    let cell = cell(37.5, 126.0);
    let sql = format!("{} {}", explain(db), statement(db.kind(), &Chargers::default()));
    let plan = query(AssertSqlSafe(sql)).bind(cell).bind("").bind(cell + 8);
    let plan = plan.bind(37.5).bind(37.55).bind(126.0).bind(126.4).bind(51_i64);
    tell_plan(db, "one strip of the grid", plan.fetch_all(db.reader()).await?);
    let mut random = Random::new(7);
    let fast =
        Chargers { connector: Some("ccs2".to_owned()), min_power_kw: Some(100.0), available: true };
    for (what, (high, wide)) in AREAS {
        for (filter, chargers) in
            [("", Chargers::default()), (", a fast charger free", fast.clone())]
        {
            let (mut times, mut found) = (Vec::new(), 0);
            for _ in 0..PAGES {
                let (south, west) = corner_of(what, &mut random);
                let area = Area::new(south, west, south + high, west + wide).expect("an area");
                let chargers = chargers.clone();
                let question = Question { area, chargers, limit: 50, after: None };
                let began = Instant::now();
                found += find(db, &question).await?.0.len();
                times.push(began.elapsed());
            }
            tell_times(&format!("{what}{filter}, by the grid"), times, found);
        }
    }
    Ok(())
}

async fn by_coordinates(db: &Database) -> Result<(), BoxError> {
    let sql = format!("{} {BY_COORDINATES}", explain(db));
    let plan = query(AssertSqlSafe(sql)).bind(37.5).bind(126.0).bind(37.8).bind(126.4);
    tell_plan(db, "coordinates", plan.fetch_all(db.reader()).await?);
    let mut random = Random::new(7);
    for (what, (high, wide)) in AREAS {
        let (mut times, mut found) = (Vec::new(), 0);
        for _ in 0..PAGES {
            let (south, west) = corner_of(what, &mut random);
            let began = Instant::now();
            let page = query(BY_COORDINATES).bind(south).bind(west).bind(south + high);
            found += page.bind(west + wide).fetch_all(db.reader()).await?.len().min(50);
            times.push(began.elapsed());
        }
        tell_times(&format!("{what}, by coordinates"), times, found);
    }
    Ok(())
}

fn corner_of(area: &str, random: &mut Random) -> (f64, f64) {
    if area == SEA { (36.0, 123.0) } else { corner(random, true) }
}

/// A third of the stations are in cities, the others anywhere in Korea and the sea around it.
async fn fill(db: &Database) -> Result<(), BoxError> {
    let (mirror, mut random, began) = (mirror(), Random::new(1), Instant::now());
    for first in (0..STATIONS).step_by(BATCH as usize) {
        let batch = (first..first + BATCH).map(|n| {
            let in_city = n % 3 == 0;
            let (south, west) = corner(&mut random, in_city);
            let span = if in_city { CITY } else { (0.0, 0.0) };
            let charger = |n: u64| {
                let connector =
                    *["ccs2", "type2", "chademo"].get(n as usize % 3).unwrap_or(&"ccs2");
                let state = if n % 5 < 2 { "available" } else { "charging" };
                json!({"connector": connector, "power_kw": 50 * (1 + n % 7), "state": state})
            };
            let chargers: Vec<_> = (0..1 + random.below(8)).map(|m| charger(n + m * 11)).collect();
            let state = json!({
                "name": format!("station {n}"), "operator": "A", "chargers": chargers,
                "latitude": south + span.0 * fraction(&mut random),
                "longitude": west + span.1 * fraction(&mut random),
            });
            Ok(EntityState {
                id: EntityId::new(&format!("{n:07}"))?,
                version: Version::new(1)?,
                changed_at: clock::now(),
                state: Some(serde_json::from_value(state)?),
            })
        });
        let batch = batch.collect::<Result<Vec<_>, BoxError>>()?;
        let mut tx = db.begin().await?;
        mirror.apply(&mut tx, &batch).await?;
        tx.commit().await?;
    }
    let rate = STATIONS as f64 / began.elapsed().as_secs_f64();
    println!("{STATIONS} stations applied, {rate:.0} a second");
    db.write(query("ANALYZE")).await?;
    Ok(())
}

fn fraction(random: &mut Random) -> f64 {
    random.below(1_000_000) as f64 / 1e6
}

/// The south-west corner of a city, or of anywhere.
fn corner(random: &mut Random, in_city: bool) -> (f64, f64) {
    match in_city {
        true => {
            let city = random.below(CITIES);
            (33.0 + (city * 7 % 53) as f64 / 10.0, 125.0 + (city * 11 % 41) as f64 / 10.0)
        }
        false => (33.0 + 5.3 * fraction(random), 125.0 + 4.2 * fraction(random)),
    }
}

fn explain(db: &Database) -> &'static str {
    db.pick("EXPLAIN QUERY PLAN", "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)")
}

fn tell_plan(db: &Database, what: &str, steps: Vec<AnyRow>) {
    let column = if db.kind() == Kind::Sqlite { 3 } else { 0 };
    let steps: Vec<String> = steps.iter().map(|row| row.get(column)).collect();
    println!("{what}:\n    {}", steps.join("\n    "));
}

fn tell_times(what: &str, mut times: Vec<Duration>, found: usize) {
    times.sort();
    let ms = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    let found = found / times.len();
    println!("{what}: p50 {:.2} ms, p99 {:.2} ms, {found} a page", ms(50), ms(99));
}
