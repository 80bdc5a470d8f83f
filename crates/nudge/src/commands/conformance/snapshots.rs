//! Answers while writes go on: of one snapshot each, and pages that miss nothing.

use std::cell::Cell;

use futures_util::future::join;
use serde_json::json;

use super::{
    listing::rising,
    report::{Doubt, Report, Rule, Tried, broken, ensure},
    target::Target,
    writes::{number_in, text},
};

/// Two entities that are written in turn.
const PAIR: [&str; 2] = ["conformance-pair-a", "conformance-pair-b"];
/// How often.
const ROUNDS: u64 = 40;
/// What the IDs of the entities that are paged through begin with, and how many there are.
const PAGED: &str = "conformance-page-";
const ENTITIES: usize = 8;
/// How often all of them are listed.
const LISTINGS: usize = 6;

const SNAPSHOT: Rule = Rule {
    section: "3.2",
    rule: "an answer to batch-get is one snapshot",
    consequence: "a version and the state beside it may be of two moments",
};
const PAGING: Rule = Rule {
    section: "3.3",
    rule: "items misses and repeats nothing while writes go on",
    consequence: "a comparison takes entities for removed that are there",
};

pub(super) async fn check(target: &Target, report: &mut Report) {
    report.note(SNAPSHOT, snapshot(target).await);
    report.note(PAGING, paging(target).await);
}

/// The first of the pair is always written before the second: at no moment is the second ahead.
async fn snapshot(target: &Target) -> Tried {
    let [first, second] = PAIR;
    let round = async |n| {
        target.put(first, &text(n)).await?;
        target.put(second, &text(n)).await
    };
    round(0).await?;
    let done = Cell::new(false);
    let write = async {
        for n in 1..=ROUNDS {
            round(n).await?;
        }
        Ok(())
    };
    let write = async {
        let written = write.await;
        done.set(true);
        written
    };
    let read = async {
        let mut seen = 0;
        while !done.get() {
            for ids in [[first, second], [second, first]] {
                let answer = target.ask("batch-get", &json!({"ids": ids})).await?;
                let of = |id| {
                    let items = answer["items"].as_array()?;
                    number_in(items.iter().find(|item| item["id"] == id)?)
                };
                let (Some(a), Some(b)) = (of(first), of(second)) else { continue };
                let possible = a == b || a == b + 1;
                ensure(possible, || {
                    format!(
                        "one answer has write {a} of one entity and write {b} of another, which never stood together"
                    )
                })?;
                seen += 1;
            }
        }
        Ok(seen)
    };
    let (written, read): (Tried, Result<u64, Doubt>) = join(write, read).await;
    for id in PAIR {
        target.delete(id).await?;
    }
    written?;
    match read? {
        0 => Err(Doubt::NotTried("no state contained the text that was written".to_owned())),
        _ => Ok(()),
    }
}

async fn paging(target: &Target) -> Tried {
    let ids: Vec<_> = (0..ENTITIES).map(|n| format!("{PAGED}{n}")).collect();
    for id in &ids {
        target.put(id, &text(0)).await?;
    }
    let done = Cell::new(false);
    // Other entities come and go between them.
    let write = async {
        let mut n = 0;
        while !done.get() {
            let between = format!("{PAGED}{}x", n % ENTITIES);
            target.put(&between, &text(n as u64)).await?;
            target.delete(&between).await?;
            n += 1;
        }
        Ok(())
    };
    let read = async {
        let mut listed = Ok(());
        for _ in 0..LISTINGS {
            listed = listing(target, &ids).await;
            if listed.is_err() {
                break;
            }
        }
        done.set(true);
        listed
    };
    let (written, listed): (Tried, Tried) = join(write, read).await;
    for id in &ids {
        target.delete(id).await?;
    }
    written.and(listed)
}

/// Lists all of them once, two at a time.
async fn listing(target: &Target, ids: &[String]) -> Tried {
    let (mut after, mut found) = (PAGED.to_owned(), Vec::new());
    loop {
        let (rows, next) = target.items(Some(&after), 2).await?;
        rising(Some(&after), &rows)?;
        found.extend(rows.into_iter().filter(|row| ids.contains(&row.id)).map(|row| row.id));
        match next {
            Some(next) if next.starts_with(PAGED) => after = next,
            _ => break,
        }
    }
    match ids.iter().find(|id| found.iter().filter(|one| one == id).count() != 1) {
        Some(id) => {
            let times = found.iter().filter(|one| *one == id).count();
            broken(format!("{id:?}, which existed all the time, is listed {times} times"))
        }
        None => Ok(()),
    }
}
