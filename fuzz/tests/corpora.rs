//! Every property holds for every file in its corpus. So whatever libFuzzer has found stays fixed.

use std::{
    collections::BTreeSet,
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use nudge_fuzz::{PROPERTIES, import, sync_answer, sync_request};
use store_info::import::MAX_LINE_BYTES;

fn entries(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

#[test]
fn every_property_holds_of_its_corpus() {
    let mut fell = Vec::new();
    for (name, property) in PROPERTIES {
        for file in entries(&corpora().join(name)) {
            let input = fs::read(&file).unwrap();
            if catch_unwind(|| property(&input)).is_err() {
                fell.push(file);
            }
        }
    }
    assert!(fell.is_empty(), "properties do not hold with {fell:#?}: each is told above");
}

#[test]
fn every_property_has_a_corpus_and_every_corpus_a_property() {
    let corpora: BTreeSet<_> = PROPERTIES.iter().map(|(name, _)| corpora().join(name)).collect();
    assert_eq!(entries(&self::corpora()), corpora);
    for corpus in corpora {
        assert!(entries(&corpus).len() >= 10, "{corpus:?}");
    }
}

// Inputs at the real limits, which are too long for a corpus.

#[test]
fn a_file_with_lines_at_the_bound() {
    for bytes in [MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1] {
        let (store, next) = (r#"{"id":"1","name":"a"}"#, r#"{"id":"2","name":"b"}"#);
        let (padding, blank) = (" ".repeat(bytes - store.len()), " ".repeat(bytes));
        let file = format!("{store}{padding}\n{next}\n{padding}{store}\r\n{blank}\n{next}");
        import(file.as_bytes());
    }
}

#[test]
fn a_request_with_as_much_as_is_allowed_and_more() {
    let texts = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    for (ids, fields) in [(512, 64), (513, 64), (512, 65)] {
        let request = serde_json::json!({"ids": texts(ids), "fields": texts(fields)});
        sync_request(request.to_string().as_bytes());
    }
}

#[test]
fn an_answer_to_as_many_ids_as_can_be_asked() {
    let ids: Vec<_> = (0..512).map(|id| id.to_string()).collect();
    let item = |id: &String| format!(r#"{{"id":"{id}","status":"live","version":1,"state":{id}}}"#);
    let answer = |ids: &[String]| {
        format!(r#"{{"items":[{}]}}"#, ids.iter().map(item).collect::<Vec<_>>().join(","))
    };
    // The second repeats some of the first, for which it was not asked.
    let answers = [&ids[..200], &ids[100..300], &ids[300..]].map(answer).join("\n\n");
    sync_answer(format!("{}\n{answers}", ids.join("|")).as_bytes());
}
