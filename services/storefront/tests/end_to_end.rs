//! The whole service beside its real owners and a real source, on real NATS.

use clap::Parser;
use nudge_testbed::{Nats, TestDatabase, eventually};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

struct Town {
    http: Client,
    store_info: String,
    review: String,
    storefront: String,
    search_stop: CancellationToken,
    _stop: DropGuard,
    _databases: [TestDatabase; 4],
    _nats: Nats,
}

impl Town {
    async fn start() -> Self {
        let nats = Nats::start().await;
        let new = TestDatabase::new;
        let databases = [new().await, new().await, new().await, new().await];
        let stop = CancellationToken::new();
        let words = |program: &str, place: usize, further: &[(&str, &str)]| {
            let url = nats.url();
            let own = [
                ("bind", "127.0.0.1:0"),
                ("nats-url", &*url),
                ("database-url", databases[place].url()),
            ];
            let settings = own.iter().chain(further);
            let settings =
                settings.flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()]);
            [program.to_owned()].into_iter().chain(settings).collect::<Vec<_>>()
        };
        let args = store_info::Args::parse_from(words("store-info", 0, &[]));
        let store_info = store_info::start(&args, stop.clone()).await.unwrap();
        let store_info = format!("http://{}", store_info.address());
        let owner = ("store-owner-url", &*store_info);
        let review = review::service().start(words("review", 1, &[owner]), stop.clone());
        let review = format!("http://{}", review.await.unwrap().address);
        let search_stop = stop.child_token();
        let search = search::service().start(words("search", 2, &[owner]), search_stop.clone());
        let search = format!("http://{}", search.await.unwrap().address);
        let settings = [owner, ("review-owner-url", &*review), ("search-url", &*search)];
        let storefront =
            storefront::service().start(words("storefront", 3, &settings), stop.clone());
        let storefront = format!("http://{}", storefront.await.unwrap().address);
        let (_stop, http) = (stop.drop_guard(), Client::new());
        Self {
            http,
            store_info,
            review,
            storefront,
            search_stop,
            _stop,
            _databases: databases,
            _nats: nats,
        }
    }

    async fn get(&self, path: &str, tokens: &str) -> (u16, Value) {
        let request = self.http.get(format!("{}{path}", self.storefront));
        let answer = request.header("Nudge-Token", tokens).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

fn token(response: &Response) -> String {
    assert!(response.status().is_success(), "{response:?}");
    response.headers()["Nudge-Token"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_was_edited_at_both_owners_shows_both_edits() {
    let town = Town::start().await;
    let put = async |name: &str| {
        let url = format!("{}/stores/42", town.store_info);
        let menus = json!([{"name": "국수", "price": 7_000}]);
        let sent = town.http.put(url).json(&json!({"name": name, "menus": menus})).send().await;
        token(&sent.unwrap())
    };
    let write = async |store: &str| {
        let url = format!("{}/stores/42/reviews", town.review);
        let body = json!({"rating": 4, "text": "맛있어요", "author": "민지"});
        let sent = town.http.post(url).header("Nudge-Token", store).json(&body).send().await;
        token(&sent.unwrap())
    };
    let store = put("달빛국수").await;
    let review = write(&store).await;
    let store = put("별빛국수").await;
    let (status, page) = town.get("/stores/42", &format!("{store}, {review}")).await;
    assert_eq!(status, 200, "{page}");
    assert_eq!(
        (&page["name"], &page["rating"]),
        (&json!("별빛국수"), &json!({"average": 4.0, "count": 1}))
    );
    assert_eq!(page["menus"], json!([{"name": "국수", "price": 7_000}]));
    assert_eq!(page["newest_reviews"][0]["text"], "맛있어요");
    // A token of something that this service does not follow is said to be one.
    let (status, problem) = town.get("/stores/42", "driver/1@1").await;
    assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("Nudge-Token")), "{problem}");

    eventually("search finds it", || async {
        let (_, list) = town.get("/stores?source=search&q=%EB%B3%84%EB%B9%9B", &store).await;
        (list["ids"] == json!(["42"])).then_some(())
    })
    .await;
    let (_, list) = town.get("/stores?source=search&q=%EB%B3%84%EB%B9%9B", "").await;
    assert_eq!((&list["items"][0]["name"], &list["fallback"]), (&json!("별빛국수"), &Value::Null));
    let (status, problem) = town.get("/stores?source=search&cursor=zz", "").await;
    assert_eq!(
        (status, &problem["errors"][0]["field"]),
        (400, &json!("cursor")),
        "search's own words"
    );
    // Once search is gone, its answers are remembered; what it was never asked comes from the view.
    town.search_stop.cancel();
    eventually("search is gone", || async {
        let (status, list) = town.get("/stores?source=search&q=%EB%B3%84%EB%B9%9B", "").await;
        assert_eq!((status, &list["ids"]), (200, &json!(["42"])));
        (list["fallback"]["basis"] == "remembered").then_some(())
    })
    .await;
    let age = async || {
        let (_, list) = town.get("/stores?source=search&open=true", "").await;
        let fallback = &list["fallback"];
        assert_eq!((&list["ids"], &fallback["basis"]), (&json!(["42"]), &json!("view")), "{list}");
        fallback["age_ms"].as_u64()
    };
    // It is looked at once a second.
    let old = 3_000;
    let is_current = async || age().await.filter(|age| *age < old);
    eventually("the view knows that it is current", is_current).await;
    let intake = async |change: &str| {
        let url = format!("{}/nudge/v1/{change}", town.storefront);
        assert!(town.http.post(url).send().await.unwrap().status().is_success());
    };
    intake("pause").await;
    put("아직").await;
    eventually("it gets older while it follows nothing", || async {
        age().await.filter(|age| *age >= old)
    })
    .await;
    intake("resume").await;
    eventually("it is current again", is_current).await;

    let deleted = town.http.delete(format!("{}/stores/42", town.store_info)).send().await;
    let (status, _) = town.get("/stores/42", &token(&deleted.unwrap())).await;
    assert_eq!(status, 410);
    let back = put("다시").await;
    let (status, page) = town.get("/stores/42", &back).await;
    assert_eq!(
        (status, &page["rating"]["count"]),
        (200, &json!(1)),
        "its reviews are back with it"
    );
}

/// The program of the page, with these addresses in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_of_the_page_about_tokens_sees_both_of_its_writes() {
    let town = Town::start().await;
    let page = include_str!("../../../docs/reading-your-writes.md");
    let (_, program) = page.split_once("```python\n").expect("a program");
    let (program, _) = program.split_once("```").expect("its end");
    let mut program = program.to_owned();
    for (port, url) in [(7101, &town.store_info), (7103, &town.review), (7104, &town.storefront)] {
        program = program.replace(&format!("http://127.0.0.1:{port}"), url);
    }
    let mut python = Command::new("python3");
    python.args(["-c", &program]).env("PYTHONIOENCODING", "utf-8").kill_on_drop(true);
    let output = python.output().await.expect("Python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "달빛국수 1\n", "{}", String::from_utf8_lossy(&output.stderr));
}
