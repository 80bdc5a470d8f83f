//! The owner's list, page by page.

use super::{
    report::{Report, Rule, Tried, broken, ensure},
    target::{Row, Target},
};

/// Pages that are read in each size.
const PAGES: usize = 20;

const ORDER: Rule = Rule {
    section: "3.3",
    rule: "items lists IDs in bytewise order, page after page",
    consequence: "a comparison misses entities, or takes them for removed",
};
const NEXT: Rule = Rule {
    section: "3.3",
    rule: "items keeps to limit, and next is the last ID, or null at the end",
    consequence: "a comparison ends too soon, or never",
};
const PROBE: Rule = Rule {
    section: "3.3",
    rule: "items answers the probe {\"limit\": 1}",
    consequence: "subscribers cannot tell a failing owner from a bad ID, and count nothing as its fault",
};

pub(super) async fn check(target: &Target, report: &mut Report) {
    report.note(PROBE, target.items(None, 1).await.map(drop));
    report.note(ORDER, order(target).await);
    report.note(NEXT, next(target).await);
}

/// The same entities, whatever the size of a page.
async fn order(target: &Target) -> Tried {
    for limit in [3, 1_000] {
        let mut after: Option<String> = None;
        for _ in 0..PAGES {
            let (rows, next) = target.items(after.as_deref(), limit).await?;
            rising(after.as_deref(), &rows)?;
            after = next;
            if after.is_none() {
                break;
            }
        }
    }
    // An ID that does not exist is as good a place to go on as any.
    let (all, _) = target.items(None, 1_000).await?;
    let Some(row) = all.first() else { return Ok(()) };
    let place = format!("{}!", row.id);
    rising(Some(&place), &target.items(Some(&place), 3).await?.0)
}

/// Whether these rows are in order, above this ID.
pub(super) fn rising(after: Option<&str>, rows: &[Row]) -> Tried {
    let mut before = after.unwrap_or_default();
    for row in rows {
        let id = row.id.as_str();
        ensure(before.as_bytes() < id.as_bytes(), || format!("{id:?} comes after {before:?}"))?;
        before = id;
    }
    Ok(())
}

async fn next(target: &Target) -> Tried {
    let mut after: Option<String> = None;
    for _ in 0..PAGES {
        let (rows, next) = target.items(after.as_deref(), 3).await?;
        ensure(rows.len() <= 3, || format!("a page of at most 3 has {} rows", rows.len()))?;
        let last = rows.last().map(|row| row.id.clone());
        match next {
            None if rows.len() == 3 => {
                let more = target.items(last.as_deref(), 1).await?.0;
                return ensure(more.is_empty(), || {
                    format!("next is null, but {:?} comes after it", more[0].id)
                });
            }
            None => return Ok(()),
            next if next == last => after = next,
            next => return broken(format!("next is {next:?}, and the last ID {last:?}")),
        }
    }
    Ok(())
}
