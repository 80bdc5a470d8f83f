use nudge_runtime::serve;
use nudge_testbed::{eventually, line::Trouble};
use reqwest::{Client, header::HeaderMap};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;

/// A drawer whose services do not run, behind the checks that all of the console's requests pass.
struct Fixture {
    drawer: Drawer,
    url: String,
    stop: CancellationToken,
}

async fn start() -> Fixture {
    // Nobody listens there.
    let lines = Lines::of_the_demo(1, 1).await.unwrap();
    let handle = || Handle { down: watch::Sender::new(false), database_url: String::new() };
    nudge_runtime::tls::install();
    let services = Service::ALL.map(|service| (service, handle())).into();
    let drawer = Drawer::new(lines, services, Api::new(1), "nudge".to_owned());
    let (listener, address) = serve::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve::serve(listener, http::router(drawer.clone()), stop.clone()));
    Fixture { drawer, url: format!("http://{address}{}", http::PATH), stop }
}

impl Fixture {
    async fn breaks(&self, kind: &str, body: Value) -> u16 {
        let answer = Client::new().post(format!("{}/{kind}", self.url)).json(&body).send().await;
        answer.unwrap().status().as_u16()
    }

    fn to_nats(&self, service: Service) -> Trouble {
        let at = Place::first(Target::ToNats(service.into()));
        self.drawer.0.lines.at(at).unwrap().trouble()
    }

    fn callbacks(&self, service: Service, owner: Service) -> Trouble {
        let at = Place::first(Target::Line(service.into(), owner));
        self.drawer.0.lines.at(at).unwrap().trouble()
    }

    fn broken(&self) -> usize {
        self.drawer.shown().broken.len()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

const QUIET: Trouble = Trouble { late: None, stalled: (false, false), sever: None, disturb: None };

#[tokio::test]
async fn each_thing_is_done_where_it_was_asked_for_and_healing_undoes_all_of_it() {
    let fixture = start().await;
    let hold = json!({"service": "search", "count": 5, "seconds": 9, "seed": 7});
    assert_eq!(fixture.breaks("hold", hold).await, 200);
    let delay = json!({"service": "storefront", "ms": 500, "seconds": 9});
    assert_eq!(fixture.breaks("delay", delay).await, 200);
    let owner = json!({"service": "review", "answer": "refused", "seconds": 9});
    assert_eq!(fixture.breaks("owner", owner).await, 200);
    assert_eq!(fixture.breaks("kill", json!({"service": "ads", "seconds": 9})).await, 200);
    assert_eq!(fixture.broken(), 4);
    let down = |service| *fixture.drawer.0.services[&service].down.borrow();

    assert_eq!(fixture.to_nats(Service::Search).disturb.unwrap().seed, 7);
    assert_eq!(fixture.to_nats(Service::Review), QUIET);
    let late = Some(Duration::from_millis(250));
    let of_stores = fixture.callbacks(Service::Storefront, Service::StoreInfo);
    assert_eq!((of_stores.late, of_stores.sever), (late, None));
    let of_reviews = fixture.callbacks(Service::Storefront, Service::Review);
    assert_eq!((of_reviews.late, of_reviews.sever.is_some()), (late, true));
    assert_eq!(fixture.callbacks(Service::Storefront, Service::Search), QUIET, "no callback");
    assert!(down(Service::Ads) && !down(Service::Search));

    assert_eq!(fixture.drawer.heal(), 4);
    for service in Service::ALL {
        assert_eq!(fixture.to_nats(service), QUIET);
        for (_, other) in service.asks() {
            assert_eq!(fixture.callbacks(service, *other), QUIET);
        }
        assert!(!down(service));
    }
    let shown = fixture.drawer.shown();
    assert!(shown.broken.is_empty() && shown.healed_at.is_some());
}

#[tokio::test]
async fn what_takes_the_place_of_another_is_healed_once_and_the_number_is_bounded() {
    let fixture = start().await;
    let some = json!({"service": "ads", "percent": 10, "next": 0, "seconds": 9, "seed": 1});
    assert_eq!(fixture.breaks("drop", some.clone()).await, 200);
    assert_eq!(fixture.breaks("duplicate", some).await, 200);
    assert_eq!(fixture.broken(), 1);
    let told = fixture.drawer.shown().broken.remove(0);
    assert!(told.words.ends_with("arrive twice"), "{}", told.words);
    assert!(fixture.to_nats(Service::Ads).disturb.is_some());

    let one = fixture.drawer.0.state.lock().broken[0].clone();
    fixture.drawer.0.state.lock().broken = vec![one; MAX_BROKEN];
    assert_eq!(fixture.breaks("kill", json!({"service": "ads", "seconds": 9})).await, 409);
    assert!(!*fixture.drawer.0.services[&Service::Ads].down.borrow());
}

#[tokio::test]
async fn whatever_is_broken_heals_by_itself_when_its_time_is_over() {
    let fixture = start().await;
    let keep = tokio::spawn(fixture.drawer.clone().keep());
    let hold = json!({"service": "search", "count": 5, "seconds": 1, "seed": 7});
    assert_eq!(fixture.breaks("hold", hold).await, 200);
    let kill = json!({"service": "ads", "seconds": 120});
    assert_eq!(fixture.breaks("kill", kill).await, 200);
    eventually("the first is over", async || (fixture.broken() == 1).then_some(())).await;
    assert_eq!(fixture.to_nats(Service::Search), QUIET);
    let shown = fixture.drawer.shown();
    assert_eq!(shown.broken[0].words, "ads was killed");
    assert!(shown.healed_at.is_none(), "not everything is healed");
    keep.abort();
}

#[tokio::test]
async fn other_sites_can_break_and_heal_nothing() {
    let fixture = start().await;
    let kill = json!({"service": "ads", "seconds": 9});
    for header in [
        ("Origin", "http://evil.example"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Host", "evil.example"),
    ] {
        let headers: HeaderMap = [header]
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .into_iter()
            .collect();
        let http = Client::new();
        let post = http.post(format!("{}/kill", fixture.url)).headers(headers.clone()).json(&kill);
        assert_eq!(post.send().await.unwrap().status(), 403, "{header:?}");
        let heal = http.delete(&fixture.url).headers(headers).send().await.unwrap();
        assert_eq!(heal.status(), 403, "{header:?}");
    }
    let form = Client::new().post(format!("{}/kill", fixture.url)).body(kill.to_string());
    assert_eq!(form.send().await.unwrap().status(), 415, "as a form would send it");
    assert_eq!(fixture.broken(), 0);
}
