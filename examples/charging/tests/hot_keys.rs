//! Many changes of few stations: notifications coalesce, and all of them arrive.

use std::time::Instant;

use futures_util::future::join_all;
use nudge_subscriber_kit::Settings;
use nudge_testbed::{Line, Nats, Way, eventually, line};
use serde_json::{Value, json};

use crate::support::{Program, station};

const STATIONS: usize = 5;
const CHARGERS: usize = 8;
/// Reports of each charger.
const REPORTS: usize = 50;
const CHANGES: usize = STATIONS * CHARGERS * REPORTS;

struct World {
    stations: Program,
    map: Program,
    /// From the map to the owner.
    line: Line,
    _nats: Nats,
}

impl World {
    /// Both services, and the stations, none of whose chargers is free.
    async fn start() -> Self {
        let nats = Nats::start().await;
        let stations = Program::stations(&nats.url()).await;
        let port = stations.service.address.port();
        let line = Line::to(port, line::Settings::default()).await.unwrap();
        let map = Program::map(&nats.url(), line.address()).await;
        let ids: Vec<_> = (0..CHARGERS).map(|n| n.to_string()).collect();
        let chargers: Vec<_> = ids.iter().map(|id| (&**id, "ccs2", 150.0, "charging")).collect();
        for n in 0..STATIONS {
            let path = format!("/stations/{n}");
            stations.put(&path, &station((37.5, 127.0), &chargers)).await;
        }
        let world = Self { stations, map, line, _nats: nats };
        world.converged(0).await;
        world
    }

    /// Changes every charger again and again, each in its own order; all are free at the end. One
    /// connection for each.
    async fn change(&self) {
        let one = |n: usize| async move {
            let (station, charger) = ((n % STATIONS).to_string(), (n / STATIONS).to_string());
            for report in 1..=REPORTS {
                let state = ["available", "charging", "out-of-order"][(REPORTS - report) % 3];
                let answer = self.stations.report(&station, &charger, state).await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        };
        join_all((0..STATIONS * CHARGERS).map(one)).await;
    }

    /// Waits until the map shows each station in the owner's version, with so many free chargers, and
    /// nothing is left to do.
    async fn converged(&self, free: usize) {
        let owned = self.owned().await;
        eventually("the map shows what the owner has", || async {
            let page = self.map.get("/stations?south=37&west=127&north=38&east=128").await.body;
            let items = page["items"].as_array()?.iter();
            let shown: Vec<_> = items
                .map(|item| (item["id"].clone(), item["version"].clone(), item["free"].clone()))
                .collect();
            let wanted: Vec<_> = owned
                .iter()
                .map(|(id, version)| (id.clone(), version.clone(), json!(free)))
                .collect();
            (shown == wanted).then_some(())
        })
        .await;
        self.map.delivered(true).await;
    }

    /// Each station and its version, by ID.
    async fn owned(&self) -> Vec<(Value, Value)> {
        let request = self.stations.request(reqwest::Method::POST, "/sync/v1/station/items");
        let answer = request.json(&json!({})).send().await.unwrap();
        let page: Value = answer.json().await.unwrap();
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| (item["id"].clone(), item["version"].clone())).collect()
    }

    /// How often the map has asked for a station, whatever else was asked for in the same callback.
    async fn asked(&self) -> usize {
        self.map.metric("nudge_asked_total").await as usize
    }
}

/// Two runs of each station: the one that was under way, and one more for everything that came meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_changes_while_the_owner_is_asked_cost_one_more_callback_a_station() {
    let world = World::start().await;
    let before = world.asked().await;
    world.line.hold(Way::There);
    world.change().await;
    eventually("all is published", || async {
        (world.stations.metric("nudge_relay_pending").await == 0).then_some(())
    })
    .await;
    world.map.delivered(false).await;
    world.line.release();
    world.converged(CHARGERS).await;
    let asked = world.asked().await - before;
    println!(
        "figure | {CHANGES} changes of {STATIONS} stations | asked for a station {asked} times"
    );
    assert!((STATIONS..=2 * STATIONS).contains(&asked), "{asked}");
}

/// Runs of one station begin at least `min_distance` apart, so their number follows from the time that all
/// of it took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_station_is_asked_for_at_most_once_per_distance_however_often_it_changes() {
    let world = World::start().await;
    let before = world.asked().await;
    let began = Instant::now();
    world.change().await;
    let changed = began.elapsed();
    world.converged(CHARGERS).await;
    let (took, asked) = (began.elapsed(), world.asked().await - before);
    println!(
        "figure | {CHANGES} changes of {STATIONS} stations in {changed:.1?}, all shown after {took:.1?} | \
         asked for a station {asked} times"
    );
    let distances = took.as_nanos() / Settings::default().queue.min_distance.as_nanos();
    assert!(asked as u128 <= STATIONS as u128 * (distances + 2), "{asked} in {distances}");
}
