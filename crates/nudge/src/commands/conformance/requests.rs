//! Requests that an owner must refuse, and how.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    report::{Doubt, Report, Rule, Tried, ensure},
    target::{Answer, Target},
};

const REFUSES: Rule = Rule {
    section: "3.2",
    rule: "requests beyond a limit, or of another shape, are refused with 400, 413, 415 or 422",
    consequence: "subscribers cannot tell their own fault from the owner's, and try for ever",
};
const TOO_LARGE: Rule = Rule {
    section: "3.1",
    rule: "a body of 2 MiB is refused with 413",
    consequence: "anybody can use up the owner's memory, and every read model waits",
};
const PROBLEMS: Rule = Rule {
    section: "3.1",
    rule: "errors are application/problem+json with the status",
    consequence: "people who look for the reason of a dead letter find none",
};
const TAKES: Rule = Rule {
    section: "3.2",
    rule: "512 IDs of 200 bytes are answered",
    consequence: "a subscriber that is behind never catches up",
};

pub(super) async fn check(target: &Target, report: &mut Report) {
    report.note(TAKES, takes(target).await);
    report.note(REFUSES, refuses(target).await);
    report.note(TOO_LARGE, too_large(target).await);
    report.note(PROBLEMS, problems(target).await);
}

/// What is wrong, the call, and the body.
fn wrong() -> Vec<(&'static str, &'static str, Value)> {
    let ids = |count: usize| (0..count).map(|n| format!("conformance {n}")).collect::<Vec<_>>();
    vec![
        ("no IDs", "batch-get", json!({"ids": []})),
        ("513 IDs", "batch-get", json!({"ids": ids(513)})),
        ("an empty ID", "batch-get", json!({"ids": [""]})),
        ("an ID of 201 bytes", "batch-get", json!({"ids": ["x".repeat(201)]})),
        ("an ID with a line feed", "batch-get", json!({"ids": ["a\nb"]})),
        ("an ID that is a number", "batch-get", json!({"ids": [42]})),
        ("IDs that are no list", "batch-get", json!({"ids": "42"})),
        ("a list instead of an object", "batch-get", json!(["42"])),
        ("no ids at all", "batch-get", json!({})),
        ("65 fields", "batch-get", json!({"ids": ["42"], "fields": ids(65)})),
        ("a limit of 0", "items", json!({"limit": 0})),
        ("a limit of 1001", "items", json!({"limit": 1001})),
        ("a limit in words", "items", json!({"limit": "all"})),
        ("an empty ID to go on after", "items", json!({"after": ""})),
    ]
}

async fn refuses(target: &Target) -> Tried {
    for (what, call, body) in wrong() {
        let answer = target.post(call, &body).await?;
        refused(&answer, what)?;
    }
    refused(&not_json(target).await?, "a body that is no JSON")
}

fn refused(answer: &Answer, what: &str) -> Tried {
    let status = answer.status;
    ensure(matches!(status, 400 | 413 | 415 | 422), || format!("{what} is answered with {status}"))
}

async fn not_json(target: &Target) -> Result<Answer, Doubt> {
    let garbage = |request: reqwest::RequestBuilder| {
        request.header("Content-Type", "application/json").body("{\"ids\": [")
    };
    target.send(Method::POST, "batch-get", garbage).await
}

async fn too_large(target: &Target) -> Tried {
    let body = json!({"ids": ["x".repeat(2 << 20)]});
    match target.post("batch-get", &body).await {
        Ok(answer) => {
            ensure(answer.status == 413, || format!("it is answered with {}", answer.status))
        }
        // An owner may hang up before it has read all of it. It must still be there.
        Err(_) => target.items(None, 1).await.map(drop),
    }
}

async fn problems(target: &Target) -> Tried {
    let (what, call, body) = wrong().swap_remove(0);
    let answers = [
        (what, target.post(call, &body).await?),
        ("a body that is no JSON", not_json(target).await?),
        ("an unknown ID", target.get("conformance-never-recorded").await?),
    ];
    for (what, answer) in answers {
        let kind = answer.header("content-type");
        let is = kind.starts_with("application/problem+json");
        ensure(is, || format!("{what} is answered with Content-Type {kind:?}"))?;
        let status = &answer.json()["status"];
        ensure(*status == answer.status, || {
            format!("{what}: status is {status} in the body and {} outside", answer.status)
        })?;
    }
    Ok(())
}

async fn takes(target: &Target) -> Tried {
    let ids: Vec<_> = (0..512).map(|n| format!("conformance {n:0188}")).collect();
    let found = target.batch_get(&ids).await?;
    ensure(found.len() == ids.len(), || format!("{} of them are answered", found.len()))
}
