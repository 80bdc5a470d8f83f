//! What it costs to compare a read model with its owner.
//!
//! `ROWS=1000000 cargo bench -p nudge-tests --bench resync` prints, for SQLite and PostgreSQL: round trips, bytes and
//! time for two equal sides, and for two that differ in ten entities.

use std::{
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use axum::{body::Body, extract::State, http::Request, middleware::Next, response::Response};
use nudge_protocol::{
    EntityId, EntityName,
    digest::{Handled, Range},
};
use nudge_publisher::Publisher;
use nudge_runtime::auth::Credentials;
use nudge_runtime::{BoxError, Database, Tx, database::Kind, serve};
use nudge_subscriber_kit::{
    Settings, Subscriber,
    internals::{Comparer, Ours, Rows},
    owner_client::HttpOwner,
};
use nudge_tests::{TestDatabase, owner::ENTITY};
use tokio_util::sync::CancellationToken;

struct Nobody;

impl nudge_publisher::Owner for Nobody {
    type State = ();

    async fn states(&self, _: &mut Tx, _: &[EntityId]) -> Result<Vec<(EntityId, ())>, BoxError> {
        Ok(Vec::new())
    }
}

/// Requests to the owner, and bytes in both directions.
#[derive(Default)]
struct Traffic {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

async fn count(
    State(traffic): State<Arc<Traffic>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    traffic.requests.fetch_add(1, Relaxed);
    traffic.bytes.fetch_add(body.len(), Relaxed);
    let answer = next.run(Request::from_parts(parts, Body::from(body))).await;
    let (parts, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    traffic.bytes.fetch_add(body.len(), Relaxed);
    Response::from_parts(parts, Body::from(body))
}

#[tokio::main]
async fn main() {
    let rows: usize = std::env::var("ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    for kind in [Kind::Sqlite, Kind::Postgres] {
        println!("{kind:?}, {rows} entities on both sides");
        compare(kind, rows).await;
    }
}

async fn compare(kind: Kind, rows: usize) {
    let (owner, copy) = (TestDatabase::of(kind).await, TestDatabase::of(kind).await);
    let (owner, copy) = (owner.open().await, copy.open().await);
    let entity = EntityName::new(ENTITY).expect("a good name");
    let publisher = Publisher::open(&owner, entity.clone()).await.expect("it opens");
    Subscriber::migrate(&copy).await.expect("the tables are made");
    fill(&owner, &copy, rows).await;
    let traffic = Arc::new(Traffic::default());
    let layer = axum::middleware::from_fn_with_state(traffic.clone(), count);
    let listener = serve::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let router = publisher.sync_api(Nobody).layer(layer);
    tokio::spawn(serve::serve(listener, router, CancellationToken::new()));
    let client = Arc::new(
        HttpOwner::new(&url, &Settings::default(), &Credentials::default()).expect("a client"),
    );
    let own = Rows { db: copy.clone(), entity: entity.clone(), tombstones: true };
    let mut comparer = Comparer::new(client, entity, Duration::from_secs(30));
    // One in each tenth; in order of versions, IDs jump about.
    let altered =
        format!("UPDATE nudge_applied SET version = version - 1 WHERE version % {} = 7", rows / 10);
    for planted in [0, 10] {
        if planted > 0 {
            let altered = sqlx::query(sqlx::AssertSqlSafe(altered.clone()));
            assert_eq!(copy.write(altered).await.expect("an update"), planted as u64);
        }
        for _ in 0..3 {
            comparer.took = Duration::ZERO;
            traffic.requests.store(0, Relaxed);
            traffic.bytes.store(0, Relaxed);
            let began = Instant::now();
            let found = walk(&mut comparer, &own).await;
            assert_eq!(found, planted);
            println!(
                "  {planted:>2} differ: {:>4} requests, {:>7} bytes, the owner answers for {:>6.0} ms of {:>6.0} ms",
                traffic.requests.load(Relaxed),
                traffic.bytes.load(Relaxed),
                comparer.took.as_secs_f64() * 1e3,
                began.elapsed().as_secs_f64() * 1e3,
            );
        }
    }
}

async fn walk(comparer: &mut Comparer, own: &Rows) -> usize {
    let (mut after, mut found) = (None, 0);
    loop {
        let (rows, range) = own
            .of(&Range { after, to: None }, Settings::default().resync.page)
            .await
            .expect("rows");
        let handled = Handled { stream_created: "then".to_owned(), seq: i64::MAX as u64 };
        let compared = comparer.compare(&Ours { range, rows, handled }).await.expect("an answer");
        found += compared.differences.len();
        after = compared.range.expect("nothing is in flight").to;
        if after.is_none() {
            return found;
        }
    }
}

/// The same versions on both sides, all published and handled. In order of versions, IDs jump about.
async fn fill(owner: &Database, copy: &Database, rows: usize) {
    let numbers = match owner.kind() {
        Kind::Sqlite => format!(
            "(WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows}) SELECT n FROM n)"
        ),
        Kind::Postgres => format!("(SELECT n FROM generate_series(1, {rows}::bigint) AS n)"),
    };
    let id = "'store-' || (1000000 + (n * 7919) % 10000019)";
    let log = format!(
        "INSERT INTO nudge_change_log \
         (entity, id, version, change, deleted, changed_at, published_version, published_seq) \
         SELECT '{ENTITY}', {id}, 1700000000000000 + n, 'updated', 0, 0, 1700000000000000 + n, n FROM {numbers} AS n"
    );
    let applied = format!(
        "INSERT INTO nudge_applied (entity, id, version, deleted, applied_at) \
         SELECT '{ENTITY}', {id}, 1700000000000000 + n, 0, 0 FROM {numbers} AS n"
    );
    let stream =
        format!("INSERT INTO nudge_relay_stream (entity, created) VALUES ('{ENTITY}', 'then')");
    for (db, sql) in [(owner, log), (owner, stream), (copy, applied)] {
        db.write(sqlx::query(sqlx::AssertSqlSafe(sql))).await.expect("the rows are written");
        let analyze = db.pick("ANALYZE", "ANALYZE nudge_change_log");
        if db.kind() == Kind::Sqlite {
            db.write(sqlx::query(analyze)).await.expect("statistics");
        }
    }
}
