//! Whose fault is a failed callback? One key may make the owner, or a proxy in front of it, fail with any status; the
//! other keys must not wait for it. And one kind of entity may fail while another does not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use nudge_protocol::{EntityId, EntityName};
use nudge_runtime::auth::Credentials;
use nudge_runtime::{database::Kind, serve};
use nudge_subscriber_kit::{
    Builder, Settings, Subscriber,
    owner_client::{FetchError, FetchErrorKind, Fetching, HttpOwner, OwnerClient, Probing},
};
use nudge_tests::{
    Copy, Fault, Nats, Owner, ReadModel, TestDatabase, Wire, copy, copy::quick, database,
    eventually, owner::ENTITY,
};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What an owner, or a proxy in front of it, may answer because of one key.
const STATUSES: [u16; 8] = [404, 408, 410, 429, 500, 502, 503, 504];

fn ids(prefix: &str) -> Vec<String> {
    (0..21).map(|n| format!("{prefix}-{n:02}")).collect()
}

/// Waits until all but this one are applied, and this one is parked, to be retried automatically.
async fn parked_alone(copy: &Copy, owner: &Owner, bad: &str) {
    eventually("everybody else is applied", || async {
        let (mut all, copies) = (owner.all().await, copy.all().await);
        all.retain(|(id, _)| id != bad);
        (all == copies).then_some(())
    })
    .await;
    let parked = copy.dead_letters(1).await;
    assert_eq!(parked[0]["id"], json!(bad));
    assert!(parked[0]["next_at"].is_string(), "{parked:?}");
    assert_eq!(copy.metric("nudge_dead_lettered_total").await, 0);
}

/// They arrive as one batch at an empty read model, so no other key is known that the owner has answered. It may not
/// offer a list, either.
async fn a_bad_key_in_the_first_batch_is_found(owner_lists: bool) {
    for status in STATUSES {
        let nats = Nats::start().await;
        let owner = Owner::start(&nats.broker("things").await).await;
        let things = ids("thing");
        let things: Vec<_> = things.iter().map(|id| (id.as_str(), json!(1))).collect();
        owner.put_all(&things).await;
        owner.misbehave(move |ids| match ids.is_empty() {
            true => (!owner_lists).then_some(Fault::Status(404, None)),
            false => ids.contains(&"thing-07".into()).then_some(Fault::Status(status, None)),
        });
        let copy = Copy::start(&nats.broker("copies").await, &owner).await;
        parked_alone(&copy, &owner, "thing-07").await;
        owner.behave();
        copy.converged(&owner).await;
        copy.dead_letters(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_key_in_the_first_batch_is_parked_alone_whatever_it_is_answered_with() {
    a_bad_key_in_the_first_batch_is_found(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_key_in_the_first_batch_is_parked_alone_by_an_owner_without_a_list_too() {
    a_bad_key_in_the_first_batch_is_found(false).await;
}

/// Its list works, since that needs no states, but no call for a key does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_fails_for_every_key_is_down_though_its_list_works() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    owner.put_all(&[("a", json!(1)), ("b", json!(1)), ("c", json!(1))]).await;
    copy.converged(&owner).await;
    for status in STATUSES {
        owner.misbehave(move |ids| (!ids.is_empty()).then_some(Fault::Status(status, None)));
        owner.put("a", json!(status)).await;
        eventually("the breaker is open", || async {
            (copy.status().await["breaker"] != "closed").then_some(())
        })
        .await;
        owner.behave();
        copy.converged(&owner).await;
    }
    copy.dead_letters(0).await;
}

/// Such answers are not about the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_counts_against_no_key() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    owner.put_all(&[("a", json!(1)), ("bad", json!(1))]).await;
    copy.converged(&owner).await;
    for status in [429, 503] {
        owner.misbehave(move |ids| {
            ids.contains(&"bad".into()).then_some(Fault::Status(status, Some(0)))
        });
        let asked = owner.times_asked("bad");
        owner.put("bad", json!(status)).await;
        // More failures than a key may have before it is parked.
        eventually("it is asked for again and again", || async {
            let asked = owner.times_asked("bad") - asked;
            (asked > quick().max_attempts_in_memory as usize).then_some(())
        })
        .await;
        let told = copy.status().await;
        assert_eq!((&told["retrying"], &told["parked"]), (&json!(0), &json!(0)));
        if status == 429 {
            assert_eq!(told["breaker"], "closed", "who is busy does not fail");
        }
        owner.behave();
        copy.converged(&owner).await;
    }
}

/// A subscriber and its address. Stopped when dropped.
struct Following {
    url: String,
    _stop: DropGuard,
}

impl Following {
    /// Starts the subscriber of a builder.
    async fn start(builder: Builder) -> Self {
        let stop = CancellationToken::new();
        let subscriber = builder.settings(quick()).start(stop.clone()).await.expect("it starts");
        let listener = serve::bind("127.0.0.1:0".parse().expect("an address")).await;
        let listener = listener.expect("a port");
        let url = format!("http://{}/nudge/v1/status", listener.local_addr().expect("an address"));
        tokio::spawn(serve::serve(listener, subscriber.router(), stop.clone()));
        Self { url, _stop: stop.drop_guard() }
    }

    /// The status of its entities, in the order in which it follows them.
    async fn entities(&self) -> Vec<Value> {
        let answer = reqwest::get(&self.url).await.expect("an answer");
        let status: Value = answer.json().await.expect("JSON");
        status["entities"].as_array().expect("entities").clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_that_its_owner_does_not_have_holds_up_no_other_of_that_owner() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    // Someone publishes it, but this owner does not know it.
    let ghosts = Owner::start_silent_of("ghost").await;
    ghosts.second_relay(&nats.broker("ghosts").await);
    let (model, broker) = (ReadModel::new().await, nats.broker("copies").await);
    let builder = Subscriber::builder("copies", &model.open().await, &broker)
        .follow("ghost", &owner.url(), copy::Keep::default())
        .follow(ENTITY, &owner.url(), copy::Keep::default());
    let following = Following::start(builder).await;
    for n in 0..20 {
        ghosts.put(&format!("ghost-{n}"), json!(n)).await;
    }
    let mut seen = 0;
    for n in 0.. {
        let applied = following.entities().await[1]["applied"].clone();
        owner.put(&format!("thing-{n}"), json!(n)).await;
        let [ghost, thing] = eventually("it is applied", || async {
            let statuses: [Value; 2] = following.entities().await.try_into().ok()?;
            (statuses[1]["applied"].as_u64() > applied.as_u64()).then_some(statuses)
        })
        .await;
        assert_eq!(thing["breaker"], "closed");
        assert_eq!((&ghost["retrying"], &ghost["parked"]), (&json!(0), &json!(0)));
        seen += usize::from(ghost["breaker"] != "closed");
        if seen >= 5 {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_without_a_list_is_followed_again_after_an_outage() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    owner.misbehave(|ids| ids.is_empty().then_some(Fault::Status(404, None)));
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    // At first, no key is known that it has answered.
    for n in 0..3 {
        owner.go_away().await;
        wire.notify(&owner.put(&format!("thing-{n}"), json!(n)).await).await;
        eventually("the breaker is open", || async {
            (copy.status().await["breaker"] == "open").then_some(())
        })
        .await;
        owner.come_back().await;
        copy.converged(&owner).await;
    }
    copy.dead_letters(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_keys_are_tried_as_soon_as_the_owner_is_back() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let mut settings = quick();
    settings.parked_retry.initial = std::time::Duration::from_secs(3_600);
    settings.parked_retry.max = settings.parked_retry.initial;
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    for id in ["a", "bad"] {
        wire.notify(&owner.put(id, json!(1)).await).await;
    }
    copy.converged(&owner).await;
    owner.misbehave(|ids| ids.contains(&"bad".into()).then_some(Fault::Status(500, None)));
    wire.notify(&owner.put("bad", json!(2)).await).await;
    parked(&copy).await;
    owner.go_away().await;
    wire.notify(&owner.put("a", json!(2)).await).await;
    eventually("the breaker is open", || async {
        (copy.status().await["breaker"] == "open").then_some(())
    })
    .await;
    owner.behave();
    owner.come_back().await;
    copy.converged(&owner).await;
    copy.dead_letters(0).await;
}

async fn parked(copy: &Copy) {
    let parked = copy.dead_letters(1).await;
    assert!(parked[0]["next_at"].is_string(), "{parked:?}");
}

/// A client for an owner that panics a few times when asked for states, and once when probed.
struct Panics {
    way: HttpOwner,
    calls: AtomicUsize,
    probes: AtomicUsize,
}

/// This many calls panic; then this many find no owner, which opens the breaker.
const PANICS: usize = 3;
const REFUSED: usize = 8;

impl OwnerClient for Panics {
    fn batch_get<'a>(
        &'a self,
        entity: &'a EntityName,
        ids: &'a [EntityId],
        fields: &'a [&'static str],
    ) -> Fetching<'a> {
        Box::pin(async move {
            let calls = self.calls.fetch_add(1, SeqCst);
            assert!(calls >= PANICS, "a call panics");
            if self.probes.load(SeqCst) == 0 && calls < PANICS + REFUSED {
                return Err(FetchError::new(FetchErrorKind::Unavailable, "nobody is there"));
            }
            self.way.batch_get(entity, ids, fields).await
        })
    }

    fn probe<'a>(&'a self, entity: &'a EntityName) -> Probing<'a> {
        Box::pin(async move {
            assert!(self.probes.fetch_add(1, SeqCst) > 0, "a probe panics");
            self.way.probe(entity).await
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_to_the_owner_that_panics_stops_nothing_for_good() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    for n in 0..3 {
        wire.notify(&owner.put(&n.to_string(), json!(n)).await).await;
    }
    let way = HttpOwner::new(&owner.url(), &Settings::default(), &Credentials::default())
        .expect("a client");
    let client = Arc::new(Panics { way, calls: 0.into(), probes: 0.into() });
    let (model, broker) = (ReadModel::new().await, nats.broker("copies").await);
    let builder = Subscriber::builder("copies", &model.open().await, &broker).follow_with(
        ENTITY,
        client.clone(),
        copy::Keep::default(),
    );
    let following = Following::start(builder).await;
    eventually("all is applied, acknowledged, and known to be", || async {
        let status = following.entities().await.remove(0);
        let end = status["applied"] == 3 && status["caught_up"] == true;
        (end && status["position"] == wire.last_sequence().await).then_some(())
    })
    .await;
    assert!(client.calls.load(SeqCst) > PANICS && client.probes.load(SeqCst) > 1);
}

/// A client for an owner that answers one key at a time, and fails after each.
struct Stutters {
    way: HttpOwner,
    calls: AtomicUsize,
}

impl OwnerClient for Stutters {
    fn batch_get<'a>(
        &'a self,
        entity: &'a EntityName,
        ids: &'a [EntityId],
        fields: &'a [&'static str],
    ) -> Fetching<'a> {
        Box::pin(async move {
            if self.calls.fetch_add(1, SeqCst) % 2 == 1 {
                return Err(FetchError::new(FetchErrorKind::Unavailable, "nobody is there"));
            }
            self.way.batch_get(entity, &ids[..1], fields).await
        })
    }

    fn probe<'a>(&'a self, entity: &'a EntityName) -> Probing<'a> {
        self.way.probe(entity)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_owner_answers_before_it_fails_is_applied() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let things: Vec<_> = (0..10).map(|n| (n.to_string(), json!(n))).collect();
    let things: Vec<_> = things.iter().map(|(id, n)| (id.as_str(), n.clone())).collect();
    owner.put_all(&things).await;
    let way = HttpOwner::new(&owner.url(), &Settings::default(), &Credentials::default())
        .expect("a client");
    let client = Arc::new(Stutters { way, calls: 0.into() });
    let (model, broker) = (ReadModel::new().await, nats.broker("copies").await);
    let builder = Subscriber::builder("copies", &model.open().await, &broker).follow_with(
        ENTITY,
        client,
        copy::Keep::default(),
    );
    let following = Following::start(builder).await;
    let status = eventually("all is applied", || async {
        let status = following.entities().await.remove(0);
        (status["applied"] == 10 && status["retrying"] == 0).then_some(status)
    })
    .await;
    assert_eq!((&status["parked"], &status["dead_letters"]), (&json!(0), &json!(0)));
}

/// What only PostgreSQL does.
mod once {
    use super::*;

    /// One thing takes longer to read than the owner's database lets a statement take.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thing_that_takes_too_long_to_read_is_parked_alone() {
        let nats = Nats::start().await;
        let database = TestDatabase::of(Kind::Postgres).await;
        let limit = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET statement_timeout = 400', \
                     current_database()); END $$";
        database::execute(database.url(), limit).await;
        let owner = Owner::start_silent_on(Arc::new(database), ENTITY).await;
        let wire = Wire::open(&nats).await;
        let things = ids("thing");
        let things: Vec<_> = things.iter().map(|id| (id.as_str(), json!(1))).collect();
        let put = owner.put_all(&things).await;
        // Declared stable, so it is called only for the rows that are asked for.
        let slow = "ALTER TABLE thing RENAME TO thing_of_the_owner; \
                    CREATE FUNCTION takes_long() RETURNS text LANGUAGE plpgsql STABLE AS \
                    $$ BEGIN PERFORM pg_sleep(60); RETURN ''; END $$; \
                    CREATE VIEW thing AS SELECT id, body || CASE id WHEN 'thing-07' \
                    THEN takes_long() ELSE '' END AS body FROM thing_of_the_owner";
        database::execute(owner.database.url(), slow).await;
        for token in &put {
            wire.notify(token).await;
        }
        let model = ReadModel::on(Arc::new(TestDatabase::of(Kind::Postgres).await));
        let copy = model.start(&nats.broker("copies").await, &owner).await;
        eventually("everybody else is applied", || async {
            (copy.all().await.len() == put.len() - 1).then_some(())
        })
        .await;
        let parked = copy.dead_letters(1).await;
        assert_eq!(parked[0]["id"], "thing-07");
        assert!(parked[0]["next_at"].is_string(), "{parked:?}");
        let mend = "DROP VIEW thing; ALTER TABLE thing_of_the_owner RENAME TO thing";
        database::execute(owner.database.url(), mend).await;
        copy.converged(&owner).await;
        copy.dead_letters(0).await;
    }
}

/// An owner leaves out what it cannot read, unless it is asked for that alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_every_answer_leaves_out_is_asked_for_alone_though_others_are_always_due() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    owner.misbehave(|ids| {
        let version = nudge_runtime::clock::now().unix_micros();
        let item =
            |id: &String| json!({"id": id, "status": "live", "version": version, "state": {}});
        let others = || ids.iter().filter(|id| *id != "bad").map(item).collect::<Vec<_>>();
        match ids {
            [id] if id == "bad" => Some(Fault::Status(500, None)),
            _ if ids.iter().any(|id| id == "bad") => {
                Some(Fault::Replay(json!({"items": others()}).to_string().into_bytes()))
            }
            _ => None,
        }
    });
    let settings = Settings { max_attempts_in_memory: 2, ..quick() };
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    let others = ids("k");
    let writing = async {
        let mut put_bad = false;
        loop {
            for id in &others {
                owner.put(id, json!({"again": true})).await;
            }
            if !std::mem::replace(&mut put_bad, true) {
                owner.put("bad", json!({})).await;
            }
        }
    };
    tokio::select! {
        () = writing => unreachable!("it goes on"),
        parked = copy.dead_letters(1) => assert_eq!(parked[0]["id"], "bad"),
    }
}
