//! The owner's digests, recomputed from its list.

use std::time::Duration;

use nudge_protocol::{
    EntityId, Version,
    digest::{Digest, RangeRow},
};
use nudge_runtime::Broker;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    report::{Doubt, Report, Rule, Tried, broken, ensure},
    stream,
    target::{Row, Target},
};

/// How often it is tried while writes of others go on, and the pause between two tries.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(300);
/// Entities up to which it is recomputed: what one answer of an owner covers.
const MOST: usize = 65_536;

const DIGEST: Rule = Rule {
    section: "3.5",
    rule: "digest answers what can be recomputed from items",
    consequence: "every comparison finds differences that are none, and reads everything",
};

pub(super) async fn check(target: &Target, broker: Option<&Broker>, report: &mut Report) {
    report.note(DIGEST, digest(target, broker).await);
}

async fn digest(target: &Target, broker: Option<&Broker>) -> Tried {
    let Some(broker) = broker else {
        return Err(Doubt::NotTried("it is about a place in the stream: give --nats".to_owned()));
    };
    let mut last = Doubt::NotTried("others write all the time".to_owned());
    for _ in 0..TRIES {
        let before = all(target).await?;
        let info = stream::info(broker, &target.entity).await?;
        let handled = json!({
            "stream_created": created(info["created"].as_str().unwrap_or_default()),
            "seq": info["state"]["last_seq"],
        });
        let request = json!({"ranges": [{}], "handled": handled});
        let answer = target.post("digest", &request).await?;
        match answer.status {
            200 => {}
            404 | 405 | 501 => {
                return Err(Doubt::NotTried("the owner does not offer it".to_owned()));
            }
            status => return broken(format!("it is answered with {status}")),
        }
        if all(target).await? == before {
            match compare(&before, &answer.json()) {
                Ok(()) => return Ok(()),
                Err(doubt) => last = doubt,
            }
        }
        sleep(PAUSE).await;
    }
    Err(last)
}

/// Everything that the owner lists.
async fn all(target: &Target) -> Result<Vec<Row>, Doubt> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let (page, next) = target.items(after.as_deref(), 1_000).await?;
        rows.extend(page);
        if rows.len() > MOST {
            return Err(Doubt::NotTried(format!("the owner has more than {MOST} entities")));
        }
        match next {
            Some(next) => after = Some(next),
            None => return Ok(rows),
        }
    }
}

/// Whether an answer has the count and the digest of these rows, without what is in flight.
fn compare(rows: &[Row], answer: &Value) -> Tried {
    let Some(in_flight) = answer["in_flight"].as_array() else {
        return broken("in_flight is null although the subscriber named the owner's own stream");
    };
    let moving: Vec<_> = in_flight.iter().filter_map(|one| one["id"].as_str()).collect();
    let rest = rows.iter().filter(|row| !moving.contains(&row.id.as_str()));
    let row = |row: &Row| {
        let (id, version) = (EntityId::new(&row.id).ok()?, Version::new(row.version).ok()?);
        Some(RangeRow { id, version, deleted: row.deleted })
    };
    let rest: Vec<_> = rest.filter_map(row).collect();
    let (range, digest) = (&answer["ranges"][0], Digest::of(&rest));
    ensure(range["count"] == rest.len(), || {
        format!("count is {}, and items lists {}", range["count"], rest.len())
    })?;
    ensure(range["digest"] == digest.as_str(), || {
        format!("it is {}, and by items {}", range["digest"], digest.as_str())
    })
}

/// When a stream was created, as subscribers name it: see section 3.5.
fn created(rfc3339: &str) -> String {
    let (date, time) = rfc3339.trim_end_matches('Z').split_once('T').unwrap_or_default();
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let fraction = Some(fraction.trim_end_matches('0')).filter(|fraction| !fraction.is_empty());
    let (hour, rest) = clock.split_once(':').unwrap_or_default();
    let hour = hour.strip_prefix('0').unwrap_or(hour);
    format!("{date} {hour}:{rest}.{} +00:00:00", fraction.unwrap_or("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_named_as_subscribers_name_it() {
        for (told, named) in [
            ("2026-01-31T09:05:07.25Z", "2026-01-31 9:05:07.25 +00:00:00"),
            ("2026-01-31T19:05:07.123456789Z", "2026-01-31 19:05:07.123456789 +00:00:00"),
            ("2026-01-31T00:00:00Z", "2026-01-31 0:00:00.0 +00:00:00"),
        ] {
            assert_eq!(created(told), named);
        }
    }
}
