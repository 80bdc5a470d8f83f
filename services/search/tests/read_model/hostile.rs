//! Texts that are meant to break something.

use proptest::prelude::*;
use serde_json::json;

use crate::read_model::support::{ReadModel, encoded, named, store};

const HOSTILE: &[&str] = &[
    "\"",
    "'",
    "''",
    "\"\"",
    "*",
    "커피*",
    "* *",
    "\"커피",
    "커피\"",
    "커피\" OR \"x",
    "커피' OR '1'='1",
    "'; DROP TABLE store; --",
    "AND",
    "OR",
    "NOT",
    "NOT 커피",
    "NEAR",
    "NEAR(커피 빈, 2)",
    "(",
    ")",
    "((((",
    "커피 AND",
    "OR 커피",
    "words:커피",
    "words : 커피",
    "{words}: 커피",
    "-커피",
    "^커피",
    "커피^",
    "+",
    "커피+빈",
    "커피 <-> 빈",
    "커피 & 빈",
    "커피 | 빈",
    "!커피",
    "커피:*",
    "커피:A",
    "\\",
    "\\'",
    "\\\"",
    "%",
    "_",
    "$1",
    "?1",
    ":a",
    "\0",
    "커\0피",
    "\u{1}",
    "\n",
    "\t",
    "\u{feff}",
    "\u{200d}",
    "\u{202e}",
    "☕",
    "👨‍👩‍👧",
    "커피☕",
    "\u{301}",
    "ﷺ",
    "ẞ",
    "İ",
    "ㅋㅋㅋ",
    "\u{1100}",
    "\u{11a8}",
    "\u{10ffff}",
    "𠀀",
    "null",
    "{}",
    "[]",
    "rank",
    "rowid",
];

#[tokio::test]
async fn no_text_breaks_the_statement_or_the_expression() {
    let model = ReadModel::new().await;
    model.apply(vec![named("a", "커피빈"), named("b", "Near and or not")]).await;
    for text in HOSTILE {
        let (status, _, body) = model.get(&format!("/stores?q={}", encoded(text))).await;
        assert_eq!(status, 200, "{text:?}: {body}");
        for filter in ["region", "category"] {
            let path = format!("/stores?{filter}={}", encoded(&format!("x{text}")));
            let (status, _, body) = model.get(&path).await;
            let control = text.chars().any(char::is_control);
            assert_eq!(status, if control { 400 } else { 200 }, "{text:?}: {body}");
        }
    }
    assert_eq!(model.ids("커피").await, ["a"], "the tables are still there");
}

#[tokio::test]
async fn words_of_the_query_language_are_ordinary_words() {
    let model = ReadModel::new().await;
    model.apply(vec![named("a", "커피빈"), named("b", "Near and or not")]).await;
    for text in ["NEAR", "AND", "OR", "NOT", "near(and or)", "NOT near"] {
        assert_eq!(model.ids(text).await, ["b"], "{text}");
    }
    assert!(model.ids("커피 OR near").await.is_empty());
    assert!(model.ids("words:커피").await.is_empty(), "`words` is a word here, not a column");
}

#[tokio::test]
async fn very_long_texts_are_refused_and_the_longest_allowed_work() {
    let model = ReadModel::new().await;
    for long in ["가".repeat(201), "가".repeat(3_500), "\"".repeat(10_000), "가 ".repeat(2_500)]
    {
        let (status, _, body) = model.get(&format!("/stores?q={}", encoded(&long))).await;
        assert_eq!((status, &body["errors"][0]["field"]), (400, &json!("q")));
    }
    let long: Vec<char> = ('가'..).take(200).collect();
    let one_word: String = long.iter().collect();
    let hundred_words: String = long.iter().take(100).map(|c| format!("{c} ")).collect();
    model.apply(vec![named("a", &one_word), named("b", "가")]).await;
    for text in [&one_word, &hundred_words] {
        let (status, _, body) = model.get(&format!("/stores?q={}", encoded(text))).await;
        assert_eq!((status, &body["ids"]), (200, &json!(["a"])));
    }
}

#[tokio::test]
async fn a_store_with_more_text_than_is_indexed_is_found_by_its_name() {
    let model = ReadModel::new().await;
    let menus: Vec<_> =
        (0..200).map(|n| json!({"name": format!("{n}{}", "긴".repeat(97))})).collect();
    model.apply(vec![store("a", 1, json!({"name": "커피빈", "menus": menus}))]).await;
    assert_eq!(model.ids("커피빈").await, ["a"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_at_all_is_answered(texts in proptest::collection::vec(any::<String>(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let model = ReadModel::new().await;
            for text in &texts {
                model.apply(vec![named("a", text)]).await;
                let part: String = text.chars().take(200).collect();
                let (status, _, body) = model.get(&format!("/stores?q={}", encoded(&part))).await;
                prop_assert_eq!(status, 200, "{:?}: {}", part, body);
                let expected = part.chars().any(char::is_alphanumeric);
                let found = body["ids"] == json!(["a"]);
                prop_assert!(found || !expected, "{:?} does not find itself", part);
            }
            Ok(())
        })?;
    }
}
