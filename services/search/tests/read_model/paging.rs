//! Pages follow one another without gaps and repetitions.

use search::query::{StoreQuery, Text};
use serde_json::json;

use crate::read_model::support::{ReadModel, deleted, everything, ids, named, store};

/// 60 stores; many share a name, some match the text only in their address.
async fn sixty() -> ReadModel {
    let model = ReadModel::new().await;
    let names = ["커피", "커피빈", "큰 커피", "찻집", "Coffee", "커 피"];
    let stores = (0..60).map(|n| {
        let region = if n % 2 == 0 { "강남구" } else { "마포구" };
        let category = if n % 3 == 0 { "cafe" } else { "tea" };
        let fields = json!({"name": names[n % 6], "address": "커피로 7", "region": region,
            "category": category, "open": n % 5 != 0});
        store(&format!("{n:02}"), 1, fields)
    });
    model.apply(stores.collect()).await;
    model
}

async fn all_pages(model: &ReadModel, query: &StoreQuery, limit: usize) -> Vec<String> {
    let mut query = StoreQuery { limit, after: None, ..query.clone() };
    let mut found = Vec::new();
    loop {
        let page = model.find(&query).await;
        assert!(page.items.len() <= limit);
        found.extend(ids(&page));
        assert!(found.len() <= 60, "going round in circles: {found:?}");
        match page.next {
            // Through its text form, as a client would send it back.
            Some(next) => query.after = Some(next.to_string().parse().unwrap()),
            None => return found,
        }
    }
}

#[tokio::test]
async fn every_match_comes_exactly_once_whatever_the_page_length() {
    let model = sixty().await;
    let some = |text: &str| Some(text.to_owned());
    for text in [None, Some("커피"), Some("커"), Some("커피 강남")] {
        for (region, category, open) in [
            (None, None, None),
            (some("강남구"), None, None),
            (None, some("cafe"), Some(true)),
            (some("마포구"), some("tea"), Some(false)),
        ] {
            let text = text.map(Text::new);
            let query = StoreQuery { text, region, category, open, ..everything() };
            let whole = ids(&model.find(&query).await);
            for limit in [1, 7, 10, 60, 100] {
                assert_eq!(all_pages(&model, &query, limit).await, whole, "{query:?} by {limit}");
            }
        }
    }
    assert_eq!(model.find(&everything()).await.items.len(), 60);
}

#[tokio::test]
async fn a_page_that_is_exactly_full_is_the_last() {
    let model = ReadModel::new().await;
    model.apply(vec![named("a", "가"), named("b", "나")]).await;
    let query = StoreQuery { limit: 2, ..everything() };
    assert_eq!(model.find(&query).await.next, None);
    assert!(model.find(&StoreQuery { limit: 1, ..query }).await.next.is_some());
}

#[tokio::test]
async fn what_changes_between_pages_disturbs_nothing_else() {
    let model = sixty().await;
    let query = StoreQuery { text: Some(Text::new("커피")), limit: 20, ..everything() };
    let before = all_pages(&model, &query, 100).await;
    let first = model.find(&query).await;
    // The last store of the page is deleted, and one that belongs before it is added.
    model
        .apply(vec![deleted(&before[19], 2), deleted(&before[30], 2), named("00new", "커피")])
        .await;
    let rest = StoreQuery { after: first.next, limit: 100, ..query };
    let expected: Vec<_> = before[20..].iter().filter(|id| **id != before[30]).cloned().collect();
    assert_eq!(ids(&model.find(&rest).await), expected);
}
