//! What the owner says about what it has.

use std::collections::HashMap;

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    report::{Doubt, Report, Rule, Tried, broken, ensure},
    target::{Row, Target, version},
    writes::{LIFE, text},
};

/// Entities that are looked at.
const SOME: usize = 200;
/// An ID that no owner has.
const UNKNOWN: &str = "conformance: this was never recorded";

const ITEMS: Rule = Rule {
    section: "3.2",
    rule: "batch-get answers each ID once, live with a version and a state, deleted with a version",
    consequence: "subscribers cannot apply such an answer, and ask again for ever",
};
const AGREE: Rule = Rule {
    section: "3.3",
    rule: "batch-get and items agree about versions and deletions",
    consequence: "every comparison finds differences that asking again does not settle",
};
const UNKNOWN_IDS: Rule = Rule {
    section: "3.2",
    rule: "an ID that was never recorded is unknown",
    consequence: "a made-up message leaves something in every read model, or fails for ever",
};
const NO_STORE: Rule = Rule {
    section: "3.1",
    rule: "answers carry Cache-Control: no-store",
    consequence: "a cache in between may answer with old states, which subscribers keep",
};
const ONE: Rule = Rule {
    section: "3.4",
    rule: "GET answers 200 with ETag, 304 if that is named, and 404 for an unknown ID",
    consequence: "tools and small subscribers take one for the other",
};
const GONE: Rule = Rule {
    section: "3.4",
    rule: "GET of a deleted entity answers 410 with the version of the deletion",
    consequence: "tools and small subscribers take a deletion for an entity that never was",
};
/// An entity that is written and deleted.
const DELETED: &str = "conformance-deleted";

pub(super) async fn check(target: &Target, report: &mut Report) {
    // So that there is one of each, whatever the owner has. Without writes, it is read as it is.
    let written = async {
        target.put(LIFE, &text(0)).await?;
        target.put(DELETED, &text(0)).await?;
        target.delete(DELETED).await
    };
    let written = if target.writes().is_ok() { written.await } else { Ok(()) };
    let some = match written {
        Ok(()) => target.some("", SOME).await,
        Err(doubt) => Err(doubt),
    };
    let rows = some.clone().unwrap_or_default();
    report.note(ITEMS, async { items(target, &some?).await }.await);
    report.note(AGREE, agree(target, &rows).await);
    report.note(UNKNOWN_IDS, unknown(target).await);
    report.note(NO_STORE, no_store(target).await);
    report.note(ONE, one(target, &rows).await);
    report.note(GONE, gone(target, &rows).await);
}

async fn items(target: &Target, rows: &[Row]) -> Tried {
    let ids: Vec<_> = rows.iter().map(|row| row.id.clone()).collect();
    if ids.is_empty() {
        return Err(Doubt::NotTried("the owner has no entities".to_owned()));
    }
    for item in target.batch_get(&ids).await? {
        let (id, has_version) = (&item["id"], version(&item) > 0);
        let valid = match item["status"].as_str() {
            Some("live") => has_version && item["state"].is_object(),
            Some("deleted") => has_version,
            Some("unknown") => return broken(format!("{id} is listed by items, but unknown")),
            _ => return broken(format!("{id} has the status {}", item["status"])),
        };
        ensure(valid, || format!("{id} is {} without a version or a state", item["status"]))?;
    }
    Ok(())
}

/// The list is read first, so an answer may be newer.
async fn agree(target: &Target, rows: &[Row]) -> Tried {
    let ids: Vec<_> = rows.iter().map(|row| row.id.clone()).collect();
    let listed: HashMap<_, _> = rows.iter().map(|row| (row.id.as_str(), row)).collect();
    for item in target.batch_get(&ids).await? {
        let id = item["id"].as_str().unwrap_or_default();
        let Some(row) = listed.get(id) else { continue };
        let now = version(&item);
        ensure(now >= row.version, || {
            format!("items lists {id:?} at {}, and batch-get answers {now}", row.version)
        })?;
        let same = now > row.version || row.deleted == (item["status"] == "deleted");
        ensure(same, || format!("items and batch-get disagree whether {id:?} is deleted"))?;
    }
    Ok(())
}

async fn unknown(target: &Target) -> Tried {
    let item = target.one(UNKNOWN).await?;
    ensure(item["status"] == "unknown", || format!("it is {}", item["status"]))?;
    ensure(item["version"].is_null(), || format!("it has the version {}", item["version"]))
}

async fn no_store(target: &Target) -> Tried {
    for (call, body) in [("batch-get", json!({"ids": [UNKNOWN]})), ("items", json!({"limit": 1}))] {
        let answer = target.post(call, &body).await?;
        let header = answer.header("cache-control");
        ensure(header.contains("no-store"), || format!("{call} has Cache-Control {header:?}"))?;
    }
    Ok(())
}

async fn one(target: &Target, rows: &[Row]) -> Tried {
    let answer = target.get("conformance-never-recorded").await?;
    ensure(answer.status == 404, || format!("an unknown ID is answered with {}", answer.status))?;
    let plain = |row: &&Row| !row.deleted && row.id != "." && row.id != "..";
    let Some(row) = rows.iter().find(plain) else {
        return Err(Doubt::NotTried("the owner has no entity that exists".to_owned()));
    };
    let answer = target.get(&row.id).await?;
    ensure(answer.status == 200, || format!("{:?} is answered with {}", row.id, answer.status))?;
    let (body, etag) = (answer.json(), answer.header("etag").to_owned());
    let named = format!("\"{}\"", version(&body));
    ensure(etag == named, || format!("ETag is {etag:?} and the version is {named}"))?;
    ensure(body["id"] == *row.id && body["state"].is_object(), || {
        "the body lacks id or state".to_owned()
    })?;
    let condition = |request: reqwest::RequestBuilder| request.header("If-None-Match", &etag);
    let again = target.send(Method::GET, &super::target::token(&row.id), condition).await?;
    ensure(matches!(again.status, 304 | 200), || {
        format!("If-None-Match is answered with {}", again.status)
    })?;
    let unchanged = again.header("etag") == etag && again.status == 200;
    ensure(!unchanged, || "If-None-Match with the current version is answered with 200".to_owned())
}

async fn gone(target: &Target, rows: &[Row]) -> Tried {
    match rows.iter().find(|row| row.deleted) {
        Some(row) => deleted(target, &row.id).await,
        None => Err(Doubt::NotTried(format!("none of the first {SOME} entities is deleted"))),
    }
}

/// An entity that is deleted, asked for alone.
pub(super) async fn deleted(target: &Target, id: &str) -> Tried {
    let answer = target.get(id).await?;
    ensure(answer.status == 410, || {
        format!("the deleted {id:?} is answered with {}", answer.status)
    })?;
    let body: Value = answer.json();
    let told = body["deleted"] == true && version(&body) > 0;
    ensure(told, || format!("the deleted {id:?} is answered with {body}, without its version"))
}
