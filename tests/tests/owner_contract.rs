//! What the kit relies on at its port to an owner: one suite for an owner over HTTP and for the simulated one.

use std::{sync::Arc, time::Duration};

use nudge_protocol::{
    EntityId, EntityName,
    sync_api::{Item, ItemStatus},
};
use nudge_runtime::auth::Credentials;
use nudge_simulation::{Fault as Simulated, ports::SimulatedOwner};
use nudge_subscriber_kit::{
    Settings,
    owner_client::{FetchError, FetchErrorKind, HttpOwner, OwnerClient},
};
use nudge_tests::{Fault, Owner, id};
use serde_json::{Value, json};

/// Longest wait for an owner's answer over HTTP.
const FETCH_TIMEOUT: Duration = Duration::from_millis(500);

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Fails,
    IsBusy,
    IsCut,
    NeverAnswers,
    IsAway,
}

enum Side {
    Real(Box<Owner>),
    Simulated(Box<SimulatedOwner>),
}

struct Party {
    side: Side,
    client: Arc<dyn OwnerClient>,
    entity: EntityName,
}

impl Party {
    async fn real() -> Self {
        let owner = Owner::start_silent().await;
        let settings = Settings { fetch_timeout: FETCH_TIMEOUT, ..Settings::default() };
        let client =
            Arc::new(HttpOwner::new(&owner.url(), &settings, &Credentials::default()).unwrap());
        let entity = owner.publisher.entity().clone();
        Self { side: Side::Real(Box::new(owner)), client, entity }
    }

    async fn simulated(seed: u64) -> Self {
        let entity = EntityName::new("thing").unwrap();
        let owner = SimulatedOwner::new(seed, &entity).await;
        let client = owner.client();
        Self { side: Side::Simulated(Box::new(owner)), client, entity }
    }

    /// Changes several things in one transaction.
    async fn put(&self, things: &[(&str, Value)]) {
        match &self.side {
            Side::Real(owner) => drop(owner.put_all(things).await),
            Side::Simulated(owner) => {
                let change = |(id, body): &(&str, Value)| (id.to_string(), Some(body.clone()));
                owner.write(things.iter().map(change)).await;
            }
        }
    }

    async fn delete(&self, id: &str) {
        match &self.side {
            Side::Real(owner) => drop(owner.delete(id).await),
            Side::Simulated(owner) => owner.write([(id.to_owned(), None)]).await,
        }
    }

    /// The fault of the next call, whatever it asks for.
    async fn goes_wrong(&self, wrong: Wrong) {
        match (&self.side, wrong) {
            (Side::Real(owner), Wrong::IsAway) => {
                owner.go_away().await;
                // Earlier connections turn out to be closed, one after the other.
                let broken = |error: FetchError| error.kind == FetchErrorKind::Broken;
                while self.client.probe(&self.entity).await.is_err_and(broken) {}
            }
            (Side::Real(owner), _) => owner.misbehave(move |_| {
                Some(match wrong {
                    Wrong::Fails => Fault::Status(500, None),
                    Wrong::IsBusy => Fault::Status(429, Some(3)),
                    Wrong::IsCut => Fault::Half,
                    Wrong::NeverAnswers | Wrong::IsAway => Fault::Hang,
                })
            }),
            (Side::Simulated(owner), _) => owner.goes_wrong(match wrong {
                Wrong::Fails => Simulated::OwnerError,
                Wrong::IsBusy => Simulated::OwnerBusy,
                Wrong::IsCut => Simulated::OwnerHalf,
                Wrong::NeverAnswers => Simulated::OwnerTimeout,
                Wrong::IsAway => Simulated::OwnerDown,
            }),
        }
    }

    async fn goes_right(&self, after: Wrong) {
        match (&self.side, after) {
            (Side::Real(owner), Wrong::IsAway) => owner.come_back().await,
            (Side::Real(owner), _) => owner.behave(),
            // Away for at most 40 seconds.
            (Side::Simulated(_), Wrong::IsAway) => {
                tokio::time::sleep(Duration::from_secs(41)).await
            }
            (Side::Simulated(_), _) => {}
        }
    }

    async fn ask(&self, ids: &[&str], fields: &[&'static str]) -> Result<Vec<Item>, FetchError> {
        let ids: Vec<EntityId> = ids.iter().map(|one| id(one)).collect();
        self.client.batch_get(&self.entity, &ids, fields).await
    }

    async fn state_of(&self, id: &str, fields: &[&'static str]) -> Value {
        let items = self.ask(&[id], fields).await.unwrap();
        state(&items[0])
    }
}

fn state(item: &Item) -> Value {
    serde_json::from_str(item.state.as_ref().expect("a state").get()).unwrap()
}

async fn an_answer_says_of_each_id_what_it_is(party: &Party) {
    party.put(&[("a", json!({"n": 1})), ("b", json!({"n": 1}))]).await;
    party.put(&[("a", json!({"n": 2}))]).await;
    party.delete("b").await;
    let mut items = party.ask(&["a", "b", "c"], &[]).await.unwrap();
    items.sort_by(|one, other| one.id.cmp(&other.id));
    let known: Vec<_> = items.iter().map(|one| (one.id.as_str(), one.status)).collect();
    let (live, deleted) = (ItemStatus::Live, ItemStatus::Deleted);
    assert_eq!(known, [("a", live), ("b", deleted), ("c", ItemStatus::Unknown)]);
    let [a, b, c] = &items[..] else { panic!("{items:?}") };
    assert_eq!(state(a), json!({"n": 2}));
    assert!(b.state.is_none() && c.state.is_none());
    // The deletion is the latest change.
    assert!(a.version.unwrap() < b.version.unwrap() && c.version.is_none());
    assert!(a.changed_at.is_some());
}

async fn only_the_fields_that_are_wanted_come(party: &Party) {
    party.put(&[("d", json!({"name": "x", "open": true, "menus": [1]}))]).await;
    assert_eq!(party.state_of("d", &["name", "open"]).await, json!({"name": "x", "open": true}));
    assert_eq!(party.state_of("d", &["none"]).await, json!({}));
    assert_eq!(party.state_of("d", &[]).await["menus"], json!([1]));
}

/// Two things are written in one transaction, over and over, while both are asked for.
async fn an_answer_is_one_snapshot_begun_after_the_call(party: &Party) {
    let both = async |n: u64| party.put(&[("e", json!({"n": n})), ("f", json!({"n": n}))]).await;
    both(0).await;
    let write = async {
        for n in 1..30 {
            both(n).await;
            let seen = party.state_of("f", &[]).await["n"].as_u64().unwrap();
            assert_eq!(seen, n, "what was written before the call");
        }
    };
    let read = async {
        for _ in 0..30 {
            let items = party.ask(&["e", "f"], &[]).await.unwrap();
            assert_eq!(state(&items[0]), state(&items[1]));
        }
    };
    tokio::join!(write, read);
}

async fn a_failure_is_known_for_what_it_is(party: &Party) {
    for (wrong, kind) in [
        (Wrong::Fails, FetchErrorKind::Broken),
        (Wrong::IsBusy, FetchErrorKind::Busy),
        (Wrong::IsCut, FetchErrorKind::Broken),
        (Wrong::NeverAnswers, FetchErrorKind::Broken),
        (Wrong::IsAway, FetchErrorKind::Unavailable),
    ] {
        party.goes_wrong(wrong).await;
        let error = party.ask(&["a", "b"], &[]).await.unwrap_err();
        assert_eq!(error.kind, kind, "{wrong:?}: {error}");
        assert_eq!(error.retry_after.is_some(), wrong == Wrong::IsBusy, "{wrong:?}: {error:?}");
        party.goes_right(wrong).await;
        assert_eq!(party.ask(&["a", "b"], &[]).await.unwrap().len(), 2, "after {wrong:?}");
    }
}

async fn a_probe_tells_whether_the_owner_answers_at_all(party: &Party) {
    party.client.probe(&party.entity).await.unwrap();
    for (wrong, kind) in [
        (Wrong::Fails, FetchErrorKind::Broken),
        (Wrong::IsBusy, FetchErrorKind::Busy),
        (Wrong::NeverAnswers, FetchErrorKind::Broken),
        (Wrong::IsAway, FetchErrorKind::Unavailable),
    ] {
        party.goes_wrong(wrong).await;
        let error = party.client.probe(&party.entity).await.unwrap_err();
        assert_eq!(error.kind, kind, "{wrong:?}: {error}");
        party.goes_right(wrong).await;
        party.client.probe(&party.entity).await.unwrap();
    }
}

async fn holds(party: &Party) {
    an_answer_says_of_each_id_what_it_is(party).await;
    only_the_fields_that_are_wanted_come(party).await;
    an_answer_is_one_snapshot_begun_after_the_call(party).await;
    a_failure_is_known_for_what_it_is(party).await;
    a_probe_tells_whether_the_owner_answers_at_all(party).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_over_http_keeps_the_contract() {
    holds(&Party::real().await).await;
}

/// In memory, whatever database is under test.
mod once {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_simulated_owner_keeps_the_contract() {
        for seed in 0..20 {
            holds(&Party::simulated(seed).await).await;
        }
    }
}
