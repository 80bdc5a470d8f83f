//! `POST /stores/import`.

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::{Answer, Api};

fn line(id: impl std::fmt::Display, name: &str) -> String {
    format!("{{\"id\":\"{id}\",\"name\":\"{name}\"}}\n")
}

/// `[created, updated, unchanged, rejected_total]` of a report.
#[track_caller]
fn counts(answer: &Answer) -> [u64; 4] {
    assert_eq!(answer.status, 200, "{answer:?}");
    ["created", "updated", "unchanged", "rejected_total"]
        .map(|name| answer.json[name].as_u64().unwrap())
}

#[tokio::test]
async fn a_file_is_imported_and_the_same_file_again_changes_nothing() {
    let api = Api::start().await;
    let menus = json!([{"name": "m", "price": 1}, {"name": "n", "price": 2}]);
    let store =
        |n: u32| json!({"id": format!("s{n}"), "name": format!("가게 {n}"), "menus": menus});
    // More than two batches, the last one not full.
    let file: String = (0..600).map(|n| format!("{}\n", store(n))).collect();
    assert_eq!(counts(&api.import(file.clone()).await), [600, 0, 0, 0]);
    let before = api.everything().await;
    assert_eq!(before["versions"].as_array().unwrap().len(), 600);
    let one = api.get("/stores/s599").await;
    assert_eq!((&one.json["name"], &one.json["menus"]), (&json!("가게 599"), &menus));

    assert_eq!(counts(&api.import(file.clone()).await), [0, 0, 600, 0]);
    assert_eq!(api.everything().await, before);

    let changed = file.replace("가게 7\"", "가게 칠\"");
    assert_eq!(counts(&api.import(changed).await), [0, 1, 599, 0]);
    assert_eq!(api.get("/stores/s7").await.json["name"], "가게 칠");
}

#[tokio::test]
async fn a_line_is_a_whole_store_and_brings_a_deleted_one_back() {
    let api = Api::start().await;
    let full = json!({"name": "a", "phone": "02", "menus": [{"name": "m", "price": 1}]});
    api.send("PUT", "/stores/1", full.clone()).await;
    api.send("PUT", "/stores/2", full).await;
    let deleted = api.delete("/stores/2").await.version();
    assert_eq!(counts(&api.import(line(1, "a") + &line(2, "a")).await), [1, 1, 0, 0]);
    let one = api.get("/stores/1").await.json;
    assert_eq!((&one["phone"], &one["menus"]), (&json!(""), &json!([])));
    assert!(api.get("/stores/2").await.version() > deleted);
}

#[tokio::test]
async fn of_a_repeated_id_the_last_line_wins() {
    let api = Api::start().await;
    let near = line(1, "first") + &line(2, "x") + &line(1, "last");
    assert_eq!(counts(&api.import(near).await), [2, 0, 1, 0]);
    assert_eq!(api.get("/stores/1").await.json["name"], "last");
    // Further apart than a batch is long.
    let between: String = (100..500).map(|n| line(n, "x")).collect();
    let far = line(3, "first") + &between + &line(3, "last");
    assert_eq!(counts(&api.import(far).await), [401, 1, 0, 0]);
    assert_eq!(api.get("/stores/3").await.json["name"], "last");
}

#[tokio::test]
async fn bad_lines_are_listed_and_do_not_stop_the_rest() {
    let api = Api::start().await;
    let long = format!("{{\"id\":\"long\",\"name\":\"{}\"}}\n", "x".repeat(1024 * 1024));
    let lines = [
        line(1, "ok").replace('\n', "\r\n"),
        "\n".into(),
        "   \r\n".into(),
        "not json\n".into(),
        "{\"name\":\"no id\"}\n".into(),
        "{\"id\":\"5\",\"name\":\"a\",\"colour\":1,\"delivery_fee\":-1}\n".into(),
        "[]\n".into(),
        long,
        "{\"id\":\"\",\"name\":\"a\"}\n".into(),
        "{\"id\":\"b\",\"name\":\"\\ud800\"}\n".into(),
        "{\"id\":\"c\",\"name\":\"a\",\"name\":\"b\"}\n".into(),
        line(2, "ok").trim_end().to_owned(),
    ];
    let answer = api.import(lines.concat()).await;
    assert_eq!(counts(&answer), [2, 0, 0, 8]);
    let rejected = answer.json["rejected"].as_array().unwrap();
    let numbers: Vec<_> = rejected.iter().map(|entry| entry["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [4, 5, 6, 7, 8, 9, 10, 11]);
    let error = |n: usize| rejected[n]["error"].as_str().unwrap();
    assert!(error(0).contains("JSON") && error(1).contains("id: is required"), "{rejected:?}");
    assert!(error(2).contains("colour") && error(2).contains("delivery_fee"), "{rejected:?}");
    assert!(error(4).contains("1048576 bytes"), "{rejected:?}");
    assert!(error(7).starts_with("duplicate field `name`"), "{rejected:?}");
    let everything = api.everything().await;
    assert_eq!(everything["stores"].as_array().unwrap().len(), 2);
    assert_eq!(everything["versions"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_list_of_rejected_lines_is_bounded_and_the_count_is_not() {
    let api = Api::start().await;
    let unknown: String = (0..300).map(|n| format!(",\"unknown-{n}\":1")).collect();
    let bad = format!("{{\"id\":\"1\",\"name\":\"a\"{unknown}}}\n");
    let answer = api.import(bad.repeat(1_200)).await;
    assert_eq!(counts(&answer), [0, 0, 0, 1_200]);
    let rejected = answer.json["rejected"].as_array().unwrap();
    assert_eq!((rejected.len(), &rejected[999]["line"]), (1_000, &json!(1_000)));
    // What is said of a line is bounded too: the names in it are the sender's.
    assert!(answer.text.len() < 1_000 * 500, "{}", answer.text.len());
}

#[tokio::test]
async fn nothing_at_all_is_an_import_too() {
    let api = Api::start().await;
    let answer = api.import("").await;
    let expected =
        json!({"created": 0, "updated": 0, "unchanged": 0, "rejected_total": 0, "rejected": []});
    assert_eq!((answer.status, answer.json), (200, expected));
}

#[tokio::test]
async fn another_content_type_is_refused() {
    let api = Api::start().await;
    let json = api.request("POST", "/stores/import").header("Content-Type", "application/json");
    Answer::of(json.body(line(1, "a"))).await.assert_problem(415, "Content-Type");
    assert_eq!(api.get("/stores/1").await.status, 404);
}

/// A store, more blank lines than fit into any memory that is set aside for a request, and another store.
#[tokio::test]
async fn an_import_may_be_of_any_length() {
    let api = Api::start().await;
    let blank = bytes::Bytes::from(format!("{}\n", " ".repeat(1023)).repeat(1024));
    let pieces = std::iter::once(line(1, "a").into()).chain(std::iter::repeat_n(blank, 300));
    let pieces = pieces.chain(std::iter::once(format!("x\n{}", line(2, "b")).into()));
    let body =
        reqwest::Body::wrap_stream(futures_util::stream::iter(pieces.map(Ok::<_, std::io::Error>)));
    let answer = api.import(body).await;
    assert_eq!(counts(&answer), [2, 0, 0, 1]);
    assert_eq!(answer.json["rejected"][0]["line"], 1 + 300 * 1024 + 1);
}

#[tokio::test]
async fn what_was_committed_before_the_sender_left_stays() {
    let api = Api::start().await;
    let file: String = (0..300).map(|n| line(format!("s{n}"), "a")).collect();
    // A chunked body that does not end: one full batch, and the beginning of the next.
    let head = "POST /stores/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut stream = api.raw(format!("{head}{:x}\r\n{file}\r\n", file.len()).as_bytes()).await;
    api.appears("/stores/s255").await;
    stream.shutdown().await.unwrap();
    drop(stream);
    let again = api.import(file).await;
    assert_eq!(counts(&again), [44, 0, 256, 0]);
}

#[tokio::test]
async fn stores_show_while_the_import_still_runs() {
    let api = Api::start().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<String>(1);
    let pieces = futures_util::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(piece), receiver))
    });
    let body = reqwest::Body::wrap_stream(pieces);
    let feeding = async {
        // Cut in the middle of a line: pieces are no lines.
        let file: String = (0..257).map(|n| line(n, "a")).collect();
        let (head, tail) = file.split_at(file.len() - 5);
        sender.send(head.to_owned()).await.unwrap();
        api.appears("/stores/255").await;
        assert_eq!(api.get("/stores/256").await.status, 404);
        sender.send(tail.to_owned()).await.unwrap();
        drop(sender);
    };
    let (answer, ()) = tokio::join!(api.import(body), feeding);
    assert_eq!(counts(&answer), [257, 0, 0, 0]);
    assert_eq!(api.get("/stores/256").await.status, 200);
}

/// The last two hundred bytes matter as much as the first: an id of the greatest length, in bulk.
#[tokio::test]
async fn imported_states_and_callbacks_agree() {
    let api = Api::start().await;
    let ids: Vec<String> = (0..40).map(|n| format!("{}{n:03}", "가".repeat(65))).collect();
    let file: String = ids.iter().map(|id| line(id, "긴 이름")).collect();
    assert_eq!(counts(&api.import(file).await), [40, 0, 0, 0]);
    let batch = api.send("POST", "/sync/v1/store/batch-get", json!({"ids": ids})).await;
    let items = batch.json["items"].as_array().unwrap();
    assert!(items.len() == 40 && items.iter().all(|item| item["status"] == "live"), "{items:?}");
}
