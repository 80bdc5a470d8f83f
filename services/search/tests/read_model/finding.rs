//! What a text finds: exactly what checking every store would find.

use nudge_runtime::database::Kind;
use nudge_subscriber_kit::EntityState;
use proptest::{prelude::*, test_runner::TestCaseError};
use search::{query::StoreQuery, store::StoreState};
use serde_json::json;
use unicode_normalization::UnicodeNormalization;

use crate::read_model::support::{ReadModel, deleted, encoded, everything, ids, named, store};

#[tokio::test]
async fn a_store_is_found_by_part_of_anything_it_is_known_by() {
    let model = ReadModel::new().await;
    let fields = json!({
        "name": "달빛국수 망원점", "region": "마포구", "neighbourhood": "망원동", "category": "Korean",
        "address": "서울특별시 마포구 달빛길 27-1, B1층",
        "menus": [{"name": "잔치 국수", "price": 7000}, {"name": "Espresso", "price": 1}],
    });
    model.apply(vec![store("moon", 1, fields), named("other", "초록접시 샐러드")]).await;
    for text in [
        "달빛국수 망원점",
        "달빛국수망원점",
        "달빛",
        "국수",
        "빛국",
        "망원점",
        "점",
        "달빛 점", // name
        "마포구",
        "마포",
        "포",
        "망원동",
        "korean",
        "KOR", // region, neighbourhood, category
        "서울특별시",
        "특별",
        "27",
        "b1",
        "B1층",
        "27-1", // address
        "잔치국수",
        "잔치 국수",
        "press",
        "ESPRESSO", // menus
        "국수 마포 espresso",
        "망원점 달빛국수",
        "\"달빛\" (마포)",
        "달빛!",                                            // several words
        "\u{1103}\u{1161}\u{11af}\u{1107}\u{1175}\u{11be}", // 달빛 in single letters
    ] {
        assert_eq!(model.ids(text).await, ["moon"], "{text}");
    }
    for text in
        ["달국", "빛달", "달빛 초록", "점마", "마포구망원동", "27b1", "없음", "달빛국수 x", "ㄷ"]
    {
        assert!(model.ids(text).await.is_empty(), "{text}");
    }
}

/// PostgreSQL records no more than 256 positions of a token.
#[tokio::test]
async fn a_part_of_a_menu_is_found_however_often_its_beginning_stands_before_it() {
    let model = ReadModel::new().await;
    let menus = |of: &str| {
        let menu = |n| json!({"name": format!("{of} {of}무 {n:03}호"), "price": 1});
        json!({"name": "가게", "menus": (0..200).map(menu).collect::<Vec<_>>()})
    };
    model.apply(vec![store("a", 1, menus("치킨")), store("b", 1, menus("피자"))]).await;
    for text in ["치킨무000호", "치킨무150호", "치킨무199호", "킨무 199", "치킨치킨무150호 가게"]
    {
        assert_eq!(model.ids(text).await, ["a"], "{text}");
    }
    for text in ["치킨무200호", "150호치킨", "무치킨", "가게치킨", "치킨무150호 피자무"]
    {
        assert!(model.ids(text).await.is_empty(), "{text}");
    }
}

/// An older release runs beside this one and applies the next version, without the columns that it does not know.
#[tokio::test]
async fn what_an_older_release_applies_is_found_by_what_it_says() {
    let model = ReadModel::new().await;
    let decomposed: String = "강남구".nfd().collect();
    let fields = json!({"name": "달빛국수", "region": decomposed});
    model.apply(vec![store("a", 1, fields)]).await;
    let older = model.db.pick(
        "UPDATE store SET version = 2, name = '별빛우동', name_key = '별빛우동', region = '마포구'",
        "UPDATE store SET version = 2, name = '별빛우동', name_key = '별빛우동', region = '마포구', \
         words = $$'별빛':1 '빛우':2 '우동':3 '동':4$$::tsvector",
    );
    model.db.write(sqlx::query(older)).await.unwrap();
    let page = model.find(&everything()).await;
    assert_eq!((&*page.items[0].name, &*page.items[0].region), ("별빛우동", "마포구"));
    if model.db.kind() == Kind::Postgres {
        assert_eq!(model.ids("별빛우동").await, ["a"]);
        assert!(model.ids("달빛국수").await.is_empty());
    }
}

#[tokio::test]
async fn names_like_the_text_come_first() {
    let model = ReadModel::new().await;
    let address = json!({"name": "가나다", "address": "커피로 1"});
    let menu = json!({"name": "아침", "menus": [{"name": "커피", "price": 1}]});
    let stores =
        [("b", "커피"), ("z", "커 피"), ("c", "커피빈"), ("d", "가 커피집"), ("e", "가커피")];
    let mut batch: Vec<_> = stores.iter().map(|(id, name)| named(id, name)).collect();
    batch.extend([store("f", 1, address), store("a", 1, menu)]);
    model.apply(batch).await;
    assert_eq!(model.ids("커피").await, ["b", "z", "c", "e", "d", "f", "a"]);
}

#[tokio::test]
async fn a_filter_finds_what_is_written_in_single_letters_and_the_other_way_round() {
    let model = ReadModel::new().await;
    let decomposed: String = "강남구".nfd().collect();
    let at = |id, region: &str| {
        store(id, 1, json!({"name": "가게", "region": region, "category": region}))
    };
    model.apply(vec![at("a", "강남구"), at("b", &decomposed), at("c", "마포구")]).await;
    for asked in ["강남구", &decomposed] {
        for field in ["region", "category"] {
            let path = format!("/stores?{field}={}", encoded(asked));
            let (status, _, found) = model.get(&path).await;
            assert_eq!((status, &found["ids"]), (200, &json!(["a", "b"])), "{path}");
            // Each in its owner's spelling.
            assert_eq!(found["items"][0][field], "강남구");
            assert_eq!(found["items"][1][field], decomposed);
        }
    }
}

#[tokio::test]
async fn filters_are_exact_and_all_must_hold() {
    let model = ReadModel::new().await;
    let at = |id, region, category, open| {
        let fields = json!({"name": "가게", "region": region, "category": category, "open": open});
        store(id, 1, fields)
    };
    model
        .apply(vec![
            at("a", "강남구", "cafe", true),
            at("b", "강남구", "cafe", false),
            at("c", "강남구", "korean", true),
            at("d", "강남", "cafe", true),
            at("e", "", "", true),
        ])
        .await;
    let text = |text: &str| Some(text.to_owned());
    let all = everything;
    for (query, expected) in [
        (all(), &["a", "b", "c", "d", "e"][..]),
        (StoreQuery { region: text("강남구"), ..all() }, &["a", "b", "c"]),
        (StoreQuery { region: text("강남"), ..all() }, &["d"]),
        (StoreQuery { category: text("cafe"), ..all() }, &["a", "b", "d"]),
        (StoreQuery { category: text("Cafe"), ..all() }, &[]),
        (StoreQuery { open: Some(false), ..all() }, &["b"]),
        (
            StoreQuery {
                region: text("강남구"),
                category: text("cafe"),
                open: Some(true),
                ..all()
            },
            &["a"],
        ),
    ] {
        assert_eq!(ids(&model.find(&query).await), expected, "{query:?}");
        let with_text = StoreQuery { text: Some(search::query::Text::new("가게")), ..query };
        assert_eq!(ids(&model.find(&with_text).await), expected, "{with_text:?}");
    }
}

#[tokio::test]
async fn a_text_without_letters_or_digits_finds_nothing() {
    let model = ReadModel::new().await;
    model.apply(vec![named("a", "☕ 카페 ☕"), named("b", "***")]).await;
    for text in ["☕", "*", "\"", "-", "()"] {
        assert!(model.ids(text).await.is_empty(), "{text}");
    }
    assert_eq!(model.ids("카페 ☕").await, ["a"]);
}

/// The searchable pieces of a store, without using the code under test.
fn pieces(store: &EntityState<StoreState>) -> Vec<String> {
    let state = store.state.as_ref().unwrap();
    let plain = |text: &str| text.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "");
    let mut pieces = vec![plain(&state.name), plain(&state.region)];
    pieces.extend(state.menus.iter().map(|menu| plain(&menu.name)));
    pieces.extend(words(&state.address));
    pieces
}

fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// What checking every store finds, by ID.
fn naive(stores: &[EntityState<StoreState>], text: &str) -> Vec<String> {
    let wanted = words(text);
    let has = |store: &&EntityState<StoreState>| {
        let pieces = pieces(store);
        let found = |word: &String| pieces.iter().any(|piece| piece.contains(word.as_str()));
        !wanted.is_empty() && wanted.iter().all(found)
    };
    stores.iter().filter(has).map(|store| store.id.to_string()).collect()
}

/// Every part of `text`, from one character to all of it.
fn parts(text: &str) -> impl Iterator<Item = String> {
    let characters: Vec<char> = text.chars().collect();
    let length = characters.len();
    (0..length).flat_map(move |from| {
        let characters = characters.clone();
        (from + 1..=length).map(move |to| characters[from..to].iter().collect())
    })
}

// Few letters, so that texts are often similar without being equal.
const TEXT: &str = "[가나다aBÉ1𠀀☕ '\"*-]{1,7}";

fn stores() -> impl Strategy<Value = Vec<EntityState<StoreState>>> {
    let fields = (TEXT, TEXT, TEXT, TEXT).prop_map(|(name, region, address, menu)| {
        json!({"name": name, "region": region, "address": address, "menus": [{"name": menu}]})
    });
    proptest::collection::vec(fields, 1..6).prop_map(|all| {
        let ids = ["a", "b", "c", "d", "e"];
        ids.iter().zip(all).map(|(id, fields)| store(id, 1, fields)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// One read model for all cases: each replaces or deletes what the previous one left, so stale index entries would
    /// show, too.
    #[test]
    fn the_index_finds_what_a_look_at_every_store_finds(
        cases in proptest::collection::vec((stores(), proptest::collection::vec(TEXT, 1..4)), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let model = ReadModel::new().await;
            for (stores, texts) in &cases {
                check(&model, stores, texts).await?;
            }
            Ok::<_, TestCaseError>(())
        })?;
    }
}

async fn check(
    model: &ReadModel,
    stores: &[EntityState<StoreState>],
    texts: &[String],
) -> Result<(), TestCaseError> {
    let mut batch = stores.to_vec();
    let all = ["a", "b", "c", "d", "e"];
    batch.extend(all[stores.len()..].iter().map(|id| deleted(id, 2)));
    model.apply(batch).await;
    let mut searched: Vec<String> = stores.iter().flat_map(pieces).collect();
    searched.extend(stores.iter().map(|store| store.state.as_ref().unwrap().name.clone()));
    let mut wanted: Vec<String> = searched.iter().flat_map(|text| parts(text)).collect();
    wanted.extend(texts.iter().cloned());
    wanted.sort();
    wanted.dedup();
    for text in wanted {
        let mut found = model.ids(&text).await;
        found.sort();
        prop_assert_eq!(&found, &naive(stores, &text), "{:?}", text);
        let mut decomposed = model.ids(&text.nfd().collect::<String>()).await;
        decomposed.sort();
        prop_assert_eq!(decomposed, found, "{:?} decomposed", text);
    }
    Ok(())
}
