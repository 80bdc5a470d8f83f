//! IDs of every allowed character, wherever they stand.

use super::{
    report::{Doubt, Report, Rule, Tried, ensure},
    target::Target,
    writes::text,
};

const WORDS: Rule = Rule {
    section: "3.4",
    rule: "GET of batch-get, items, digest, recent, renew and change-log means the entity with that ID",
    consequence: "an entity with such an ID cannot be read alone",
};
const IDS: Rule = Rule {
    section: "1.2",
    rule: "every allowed ID can be written, and is answered as it was written",
    consequence: "subscribers ask for an ID that the owner does not know, and never get the entity",
};

pub(super) async fn check(target: &Target, report: &mut Report) {
    report.note(WORDS, words(target).await);
    report.note(IDS, ids(target).await);
}

async fn words(target: &Target) -> Tried {
    for word in ["batch-get", "items", "digest", "recent", "renew", "change-log"] {
        let status = target.get(word).await?.status;
        ensure(matches!(status, 200 | 404 | 410), || {
            format!("GET of {word} is answered with {status}")
        })?;
    }
    Ok(())
}

/// All that begin with this; together they have every ASCII character that is allowed, and others of each length.
pub(super) const PREFIX: &str = "conformance:";

pub(super) fn awkward() -> Vec<String> {
    let ascii: Vec<char> = (' '..='~').collect();
    let mut ids: Vec<_> = ascii.chunks(24).map(|part| part.iter().collect::<String>()).collect();
    ids.extend(
        [
            "é e\u{301}",
            "강남 1호점",
            "🍜\u{10ffff}",
            "\u{a0}\u{2028}\u{feff}\u{fffd}",
            "a..b",
            "%2F%",
            "+ +",
            "null",
        ]
        .map(str::to_owned),
    );
    ids.push("가".repeat(62));
    ids.iter().map(|id| format!("{PREFIX}{id}")).collect()
}

async fn ids(target: &Target) -> Tried {
    let all = awkward();
    let mut refused = Vec::new();
    for id in &all {
        match target.put(id, &text(1)).await {
            Err(Doubt::NotTried(why)) => refused.push((id, why)),
            done => done?,
        }
    }
    if let [(_, why), ..] = &refused[..] {
        // Without writes at all, there is nothing to be said.
        target.writes()?;
        return Err(Doubt::Broken(format!(
            "{} of {} IDs cannot be written: {why}",
            refused.len(),
            all.len()
        )));
    }
    let answered = target.batch_get(&all).await?;
    let listed = target.some(PREFIX, 1_000).await?;
    for (id, item) in all.iter().zip(&answered) {
        ensure(item["status"] == "live", || {
            format!("{id:?} is {} after it was written", item["status"])
        })?;
        ensure(listed.iter().any(|row| row.id == *id), || format!("items does not list {id:?}"))?;
        let alone = target.get(id).await?;
        let same = alone.status == 200 && alone.json()["id"] == **id;
        ensure(same, || {
            format!("GET of {id:?} is answered with {}, {}", alone.status, alone.json()["id"])
        })?;
    }
    for id in &all {
        target.delete(id).await?;
    }
    Ok(())
}
