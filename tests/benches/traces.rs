//! What traces cost a subscriber that works off a backlog, in one run.
//!
//! `cargo bench -p nudge-tests --bench traces` prints the pace without traces, and with a share of changes traced. Every message
//! carries a `traceparent`, and the collector runs in this process: both cost more than in production.

use std::time::Instant;

use nudge_runtime::traces::{Context, Sampler, TraceArgs, Traces, within};
use nudge_subscriber_kit::Settings;
use nudge_tests::{Collector, Mood, Nats, Owner, ReadModel, eventually};
use serde_json::json;

const ENTITIES: usize = 20_000;
/// Changes in one transaction, and so in one trace.
const AT_A_TIME: usize = 100;
/// The best of each counts: others use the machine, too.
const ROUNDS: usize = 5;
/// The shares of changes that are traced.
const SHARES: [f64; 3] = [0.0, 0.01, 1.0];

#[tokio::main]
async fn main() {
    let (nats, collector) = (Nats::start().await, Collector::start(Mood::Takes).await);
    let owner = Owner::start_silent().await.traces(&collector.traces("things"));
    owner.second_relay(&nats.broker("things").await);
    fill(&owner).await;
    let off = Traces::default();
    let mut best = [0.0_f64; 1 + SHARES.len()];
    for _ in 0..ROUNDS {
        best[0] = best[0].max(pace(&nats, &owner, off.clone()).await);
        for (best, share) in best[1..].iter_mut().zip(SHARES) {
            *best = best.max(pace(&nats, &owner, traces(&collector, share)).await);
        }
    }
    println!("traces off:     {:>8.0} entities/s", best[0]);
    for (pace, share) in best[1..].iter().zip(SHARES) {
        println!("{:>5}% traced:  {pace:>8.0} ({:.3})", share * 100.0, pace / best[0]);
    }
    println!("spans that the collector got: {}", collector.spans().len());
}

fn traces(collector: &Collector, share: f64) -> Traces {
    let args = TraceArgs {
        otlp_endpoint: Some(collector.url()),
        traces_sampler: Sampler::parse("traceidratio").ok(),
        traces_sampler_arg: Some(share),
        ..TraceArgs::default()
    };
    Traces::start(&args, "copies").expect("traces start")
}

async fn fill(owner: &Owner) {
    let body = json!({"name": "달빛국수 망원점", "region": "마포구", "open": true});
    let ids: Vec<String> = (0..ENTITIES).map(|n| format!("thing-{n:06}")).collect();
    for (n, ids) in ids.chunks(AT_A_TIME).enumerate() {
        let things: Vec<_> = ids.iter().map(|id| (id.as_str(), body.clone())).collect();
        within(Some(Context::root()), owner.put_all(&things)).await;
        // What waits for too long without being published is forgotten.
        let written = ((n + 1) * AT_A_TIME) as u64;
        let published = || async { (owner.publisher.health().published >= written).then_some(()) };
        eventually("they are published", published).await;
    }
}

/// How many entities a second a new subscriber applies.
async fn pace(nats: &Nats, owner: &Owner, traces: Traces) -> f64 {
    let mut model = ReadModel::new().await.traces(traces.clone());
    model.settings = Settings::default();
    let broker = nats.broker("copies").await;
    let began = Instant::now();
    let copy = model.start(&broker, owner).await;
    eventually("everything is applied", || async {
        let query = sqlx::query_as::<_, (i64,)>("SELECT count(*) FROM copy");
        let (count,) = query.fetch_one(copy.db.reader()).await.expect("a count");
        (count == ENTITIES as i64).then_some(())
    })
    .await;
    let pace = ENTITIES as f64 / began.elapsed().as_secs_f64();
    copy.stop().await;
    traces.flush().await;
    pace
}
