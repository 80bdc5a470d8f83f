//! Services of the demo as programs of their own, as `nudge dev` runs them.

use std::{ops::Range, path::PathBuf, process::Stdio};

use futures_util::stream;
use nudge_runtime::{BoxError, Database, database::Durability};
use nudge_testbed::{
    Service, TestDatabase,
    ports::free_port,
    program::{Guard, Launch, Output, Program, STOP_PATIENCE},
};
use reqwest::{Body, Client};
use serde_json::json;

use crate::{Options, PATIENCE, found, metric, usage::Usage, world::World};

/// Stores that are sent in one piece of an import.
const AT_A_TIME: usize = 200;
/// What the names of stores are made of, so that a search finds some of them.
const SYLLABLES: [&str; 24] = [
    "달", "빛", "햇", "살", "국", "수", "나", "무", "바", "람", "하", "늘", "구", "름", "초", "록",
    "접", "시", "은", "하", "강", "변", "마", "루",
];
const REGIONS: [&str; 5] = ["강남구", "마포구", "강서구", "관악구", "종로구"];
const CATEGORIES: [&str; 4] = ["cafe", "korean", "salad", "bakery"];

/// Programs that run, on servers of their own.
pub(crate) struct Programs {
    world: World,
    exe: PathBuf,
    guard: Guard,
    running: Vec<Running>,
    pub(crate) http: Client,
}

struct Running {
    service: Service,
    program: Program,
    port: u16,
    database: TestDatabase,
}

impl Programs {
    /// Starts these services, owners first.
    pub(crate) async fn start(
        world: World,
        options: &Options,
        services: &[Service],
    ) -> Result<Self, BoxError> {
        let exe = options.exe.clone();
        let guard = Guard::start(&exe, options.guard_verb, Stdio::null())?;
        let http = Client::builder().no_proxy().timeout(PATIENCE).build()?;
        let mut all = Self { world, exe, guard, running: Vec::new(), http };
        for service in services {
            all.add(*service).await?;
        }
        Ok(all)
    }

    /// Starts one more, which follows those that run.
    pub(crate) async fn add(&mut self, service: Service) -> Result<(), BoxError> {
        let (port, database) = (free_port(), self.world.database().await);
        let mut launch = Launch::new(service.name(), &self.exe, Output::Nowhere);
        launch.guard = Some(self.guard.clone());
        launch.args = ["service", service.name()].map(Into::into).into();
        launch.env = vec![
            ("BIND", format!("127.0.0.1:{port}")),
            ("NATS_URL", self.world.nats.url()),
            ("DATABASE_URL", database.url().to_owned()),
            ("LOG", "warn".to_owned()),
        ];
        for (setting, asked) in service.asks() {
            launch.env.push((setting, self.url(*asked)));
        }
        if service == Service::StoreInfo {
            launch.env.push(("SAMPLE", "false".to_owned()));
        }
        let mut program = Program::new(launch);
        program.start()?;
        self.running.push(Running { service, program, port, database });
        let url = format!("{}/livez", self.url(service));
        let answers = || async { self.http.get(&url).send().await.ok()?.error_for_status().ok() };
        found("a program answers", answers).await.map(drop)
    }

    /// Stops all of them, the last first.
    pub(crate) async fn stop(mut self) {
        for one in self.running.iter_mut().rev() {
            one.program.stop(STOP_PATIENCE).await;
        }
        self.guard.finish();
    }

    fn of(&self, service: Service) -> Option<&Running> {
        self.running.iter().find(|one| one.service == service)
    }

    /// Where a service listens; nowhere if it does not run.
    pub(crate) fn url(&self, service: Service) -> String {
        format!("http://127.0.0.1:{}", self.of(service).map_or(1, |one| one.port))
    }

    /// What a program has taken so far; `None` where Linux's way to ask is not known.
    pub(crate) fn usage(&self, service: Service) -> Option<Usage> {
        Usage::of(self.of(service)?.program.id()?)
    }

    /// Imports stores with these numbers in this edition. Returns once the owner has written all of them.
    pub(crate) async fn import(
        &self,
        numbers: Range<usize>,
        edition: usize,
    ) -> Result<(), BoxError> {
        let pieces = numbers.clone().step_by(AT_A_TIME).map(move |first| {
            let piece = first..numbers.end.min(first + AT_A_TIME);
            Ok::<_, BoxError>(piece.map(|n| store(n, edition)).collect::<String>())
        });
        let body = Body::wrap_stream(stream::iter(pieces));
        let url = format!("{}/stores/import", self.url(Service::StoreInfo));
        let request = self.http.post(url).header("content-type", "application/x-ndjson");
        request.body(body).send().await?.error_for_status()?.bytes().await?;
        Ok(())
    }

    /// Waits until the owner has published everything.
    pub(crate) async fn published(&self) -> Result<(), BoxError> {
        found("everything is published", || async {
            let pending = self.metric(Service::StoreInfo, "nudge_relay_pending").await;
            (pending.ok()? == 0.0).then_some(())
        })
        .await
    }

    /// Waits until a service has applied the stores with numbers below `count`.
    pub(crate) async fn applied(&self, service: Service, count: usize) -> Result<(), BoxError> {
        let database = &self.of(service).ok_or("it does not run")?.database;
        let db = Database::open(database.url(), Durability::Refillable).await?;
        let (last, all) = (id(count - 1), i64::try_from(count)?);
        found("all stores are applied", || async {
            // To count them takes time from what is measured: the last is mostly among the last that come.
            let there = "SELECT 1 FROM nudge_applied WHERE entity = 'store' AND id = $1";
            let there = sqlx::query_as(there).bind(last.clone());
            let _: (i32,) = there.fetch_optional(db.reader()).await.ok()??;
            let count = "SELECT count(*) FROM nudge_applied WHERE entity = 'store'";
            let (count,): (i64,) = sqlx::query_as(count).fetch_one(db.reader()).await.ok()?;
            (count >= all).then_some(())
        })
        .await?;
        db.close().await;
        Ok(())
    }

    /// The value of a service's metric of stores.
    pub(crate) async fn metric(&self, service: Service, name: &str) -> Result<f64, BoxError> {
        let url = format!("{}/metrics", self.url(service));
        let text = self.http.get(url).send().await?.error_for_status()?.text().await?;
        metric(&text, name, "store")
    }
}

fn id(n: usize) -> String {
    format!("store-{n:07}")
}

/// A word of two syllables that names of stores contain.
pub(crate) fn word(n: usize) -> String {
    let syllable = |n: usize| SYLLABLES[n % SYLLABLES.len()];
    format!("{}{}", syllable(n), syllable(n / SYLLABLES.len()))
}

/// A store, as one line of an import.
fn store(n: usize, edition: usize) -> String {
    let line = json!({
        "id": id(n),
        "name": format!("{}{} {n}", word(n), word(n / 7)),
        "category": CATEGORIES[n % CATEGORIES.len()],
        "region": REGIONS[n % REGIONS.len()],
        "address": format!("서울특별시 {} {}로 {}", REGIONS[n % REGIONS.len()], word(n / 3), n % 400),
        "open": !(n + edition).is_multiple_of(3),
        "delivery_fee": edition,
        "menus": [{"name": format!("{}국수", word(n)), "price": 7_000}, {"name": "김밥", "price": 4_000}],
    });
    format!("{line}\n")
}
