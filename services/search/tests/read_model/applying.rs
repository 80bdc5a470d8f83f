//! The content of the read model after batches of states.

use search::query::{StoreQuery, Text};
use serde_json::json;

use crate::read_model::support::{ReadModel, deleted, everything, ids, named, store};

#[tokio::test]
async fn the_same_state_twice_is_the_same_as_once() {
    let model = ReadModel::new().await;
    let batch = || vec![named("a", "커피빈"), named("b", "커피집")];
    model.apply(batch()).await;
    let once = model.find(&everything()).await;
    model.apply(batch()).await;
    assert_eq!(model.find(&everything()).await, once);
    assert_eq!(model.ids("커피").await, ["a", "b"]);
}

#[tokio::test]
async fn a_newer_state_leaves_nothing_of_the_older_in_the_index() {
    let model = ReadModel::new().await;
    let old = json!({"name": "옛날다방", "region": "종로구", "menus": [{"name": "쌍화차"}]});
    model.apply(vec![store("a", 1, old), named("b", "새옛날통닭")]).await;
    model.apply(vec![store("a", 2, json!({"name": "새벽커피", "region": "강남구"}))]).await;
    for gone in ["옛날다방", "다방", "방", "종로", "쌍화차", "쌍"] {
        assert!(model.ids(gone).await.is_empty(), "{gone}");
    }
    assert_eq!(model.ids("옛날").await, ["b"]);
    assert_eq!(model.ids("새벽 강남").await, ["a"]);
    let all = model.find(&everything()).await;
    assert_eq!(ids(&all), ["a", "b"], "ordered by the new name");
    let versions: Vec<_> = all.items.iter().map(|item| item.version.get()).collect();
    assert_eq!(versions, [2, 1]);
}

#[tokio::test]
async fn a_text_that_changes_back_is_indexed_again() {
    let model = ReadModel::new().await;
    for (version, name) in [(1, "옛날다방"), (2, "새벽커피"), (3, "옛날다방"), (4, "새벽커피")]
    {
        model.apply(vec![store("a", version, json!({"name": name}))]).await;
        assert_eq!(model.ids(name).await, ["a"], "{version}");
    }
    assert!(model.ids("옛날").await.is_empty());
}

#[tokio::test]
async fn a_state_with_the_same_text_changes_the_rest() {
    let model = ReadModel::new().await;
    model.apply(vec![store("a", 1, json!({"name": "가게", "open": true}))]).await;
    for (version, open) in [(2, false), (3, true)] {
        model.apply(vec![store("a", version, json!({"name": "가게", "open": open}))]).await;
        let query = StoreQuery { text: Some(Text::new("가게")), ..everything() };
        let item = &model.find(&query).await.items[0];
        assert_eq!((item.open, item.version.get()), (open, version));
        let other = StoreQuery { open: Some(!open), ..query };
        assert!(model.find(&other).await.items.is_empty());
    }
    // A change of the text after changes of other fields is still noticed.
    model.apply(vec![store("a", 4, json!({"name": "점포"}))]).await;
    assert_eq!(model.ids("점포").await, ["a"]);
    assert!(model.ids("가게").await.is_empty());
}

#[tokio::test]
async fn a_deleted_store_is_gone_from_text_and_filters_and_can_come_back() {
    let model = ReadModel::new().await;
    model.apply(vec![named("a", "커피빈"), named("b", "커피집"), named("c", "커피방")]).await;
    model.apply(vec![deleted("b", 2), deleted("c", 2), deleted("never", 1)]).await;
    assert_eq!(model.ids("커피").await, ["a"]);
    assert_eq!(ids(&model.find(&everything()).await), ["a"]);
    let count = model.db.pick(
        "SELECT count(*) FROM store_words WHERE store_words MATCH '커피'",
        "SELECT count(*) FROM store WHERE words @@ '커피'::tsquery",
    );
    let (indexed,): (i64,) = sqlx::query_as(count).fetch_one(model.db.reader()).await.unwrap();
    assert_eq!(indexed, 1, "nothing of the others is left in the index");
    // The new store may get the row number of a deleted one, and must not inherit its words.
    model.apply(vec![named("new", "찻집"), named("newer", "빵집")]).await;
    assert_eq!(model.ids("커피").await, ["a"]);
    assert_eq!(model.ids("집").await, ["newer", "new"]);
    model.apply(vec![named("b", "커피집")]).await;
    assert_eq!(model.ids("커피").await, ["a", "b"]);
}

#[tokio::test]
async fn one_batch_creates_changes_and_deletes() {
    let model = ReadModel::new().await;
    model.apply(vec![named("a", "하나"), named("b", "둘")]).await;
    let batch = vec![deleted("a", 2), store("b", 2, json!({"name": "두울"})), named("c", "셋")];
    model.apply(batch).await;
    assert_eq!(ids(&model.find(&everything()).await), ["b", "c"]);
    assert!(model.ids("하나").await.is_empty());
    assert_eq!(model.ids("울").await, ["b"]);
}

#[tokio::test]
async fn ids_and_names_are_data_whatever_they_hold() {
    let model = ReadModel::new().await;
    let odd = ["a'b", "a\"b", "$1", "50% _off", "강남 1호점/별관", "a\\", "{\"id\":1}", "*", ">"];
    model.apply(odd.iter().map(|text| named(text, text)).collect()).await;
    let mut found = ids(&model.find(&everything()).await);
    found.sort();
    let mut expected = odd.map(str::to_owned);
    expected.sort();
    assert_eq!(found, expected);
    model.apply(odd.iter().map(|text| deleted(text, 2)).collect()).await;
    assert!(model.find(&everything()).await.items.is_empty());
}
