//! What was the same on both sides: collected page by page, and certified at the end.

use std::collections::HashSet;

use nudge_protocol::{
    EntityId, EntityName,
    admin::{Agreement, Certificate, Certified, MAX_NAMED_IN_FLIGHT, ResyncStatus},
    digest::RangeRow,
};

/// Adds the rows of a page, without those that were left out of the comparison.
pub(super) fn agree(agreed: &mut Agreement, rows: &[RangeRow], left_out: &HashSet<EntityId>) {
    for row in rows.iter().filter(|row| !left_out.contains(&row.id)) {
        agreed.digest.add(row);
        *(if row.deleted { &mut agreed.tombstones } else { &mut agreed.entities }) += 1;
    }
    let mut left_out: Vec<_> = left_out.iter().cloned().collect();
    left_out.sort();
    let room = MAX_NAMED_IN_FLIGHT.saturating_sub(agreed.in_flight.len());
    agreed.more_in_flight += left_out.len().saturating_sub(room) as u64;
    agreed.in_flight.extend(left_out.into_iter().take(room));
}

/// Certifies the last complete comparison, if it found both sides equal.
pub(crate) fn certify(
    status: ResyncStatus,
    (service, entity, owner): (String, EntityName, String),
    tombstones: bool,
) -> Certified {
    let why_not =
        |why: String| Certified { entity: entity.clone(), certificate: None, why_not: Some(why) };
    let Some((last, as_of)) = status.last.and_then(|last| last.ended_at.map(|at| (last, at)))
    else {
        return why_not(status.waits_for.unwrap_or_else(|| "nothing is compared yet".to_owned()));
    };
    let (differed, agreed) = (last.differences.sum(), last.agreed);
    if differed > 0 {
        return why_not(format!(
            "{differed} entities differed; they are equal once a comparison finds none"
        ));
    }
    if last.set_aside > 0 {
        let set_aside = last.set_aside;
        return why_not(format!("{set_aside} entities differ and are parked or dead letters"));
    }
    if agreed.more_in_flight > 0 {
        let many = agreed.in_flight.len() as u64 + agreed.more_in_flight;
        return why_not(format!("{many} changes were in flight, more than a certificate can name"));
    }
    // An older release compared a part, and added nothing up.
    let known = agreed.entities + agreed.tombstones + agreed.in_flight.len() as u64;
    if known < last.compared {
        return why_not("the last comparison was not made by this release alone".to_owned());
    }
    if last.owner != owner {
        return why_not(format!("the last comparison was with another owner, {}", last.owner));
    }
    let contents = status.contents.last.filter(|pass| pass.altered + pass.strays == 0);
    let certificate = Certificate {
        service,
        entity: entity.clone(),
        owner,
        began_at: last.began_at,
        as_of,
        entities: agreed.entities,
        tombstones: tombstones.then_some(agreed.tombstones),
        digest: agreed.digest,
        in_flight: agreed.in_flight,
        contents_as_of: contents.as_ref().and_then(|pass| pass.ended_at),
        contents_left_out: contents.map_or(0, |pass| pass.left_out),
    };
    Certified { entity, certificate: Some(certificate), why_not: None }
}

#[cfg(test)]
mod tests {
    use nudge_protocol::admin::{ContentsPass, Sweep};
    use serde_json::json;

    use super::*;

    /// What is certified of these comparisons.
    fn certified(sweep: serde_json::Value, pass: serde_json::Value) -> Certified {
        let sweep: Sweep = serde_json::from_value(sweep).unwrap();
        let pass: ContentsPass = serde_json::from_value(pass).unwrap();
        let mut status = ResyncStatus { last: Some(sweep), ..ResyncStatus::default() };
        status.contents.last = Some(pass);
        let names =
            ("search".to_owned(), EntityName::new("store").unwrap(), "http://owner".to_owned());
        certify(status, names, true)
    }

    #[test]
    fn only_what_was_compared_is_certified() {
        let (began, ended) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:05.000000Z");
        let sweep = json!({"began_at": began, "ended_at": ended, "owner": "http://owner",
                           "compared": 3, "agreed": {"entities": 2, "in_flight": ["7"]}});
        let pass = json!({"began_at": began, "ended_at": ended, "compared": 2, "left_out": 1});
        let certificate = certified(sweep.clone(), pass.clone()).certificate.unwrap();
        assert_eq!(json!(certificate.contents_as_of), json!(ended));
        assert_eq!(certificate.contents_left_out, 1);
        let mut altered = pass.clone();
        altered["strays"] = json!(1);
        let certificate = certified(sweep.clone(), altered).certificate.unwrap();
        assert_eq!(certificate.contents_as_of, None);
        for (field, value, why) in [
            ("owner", json!("http://before"), "with another owner, http://before"),
            ("compared", json!(4), "not made by this release alone"),
            ("set_aside", json!(2), "2 entities differ and are parked"),
            ("differences", json!({"ghosts": 2}), "2 entities differed"),
            ("ended_at", json!(null), "nothing is compared yet"),
        ] {
            let mut sweep = sweep.clone();
            sweep[field] = value;
            let why_not = certified(sweep, pass.clone()).why_not.unwrap();
            assert!(why_not.contains(why), "{why_not}");
        }
    }
}
