//! Versions: through deletion and re-creation, and under concurrent writes.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

use futures_util::future::{join, try_join_all};
use serde_json::Value;

use super::{
    answers::deleted,
    report::{Doubt, Report, Rule, Tried, broken, ensure},
    target::{Target, version},
};

/// The entity that is written, deleted and written again.
pub(super) const LIFE: &str = "conformance-life";
/// The entity that many write at the same time.
const MANY: &str = "conformance-many";
/// How many writers there are, and how often each writes.
const WRITERS: u64 = 4;
const WRITES: u64 = 12;
/// How many readers look on.
const READERS: usize = 3;
/// What stands before the number in a text that is written.
const MARK: &str = "conformance ";

const RISES: Rule = Rule {
    section: "2.2",
    rule: "versions rise with each change, through deletion and re-creation",
    consequence: "subscribers keep the state that they have, and never see the change",
};
const TOMBSTONE: Rule = Rule {
    section: "2.3",
    rule: "a deleted entity stays known as deleted, in batch-get, items and GET",
    consequence: "subscribers never remove it",
};
const CONCURRENT: Rule = Rule {
    section: "2.2",
    rule: "versions only rise while several write at the same time",
    consequence: "the last of the writes is never applied by anybody",
};
const STATE: Rule = Rule {
    section: "3.2",
    rule: "a version always comes with the same state",
    consequence: "subscribers keep an old state under a new version, for good",
};

pub(super) async fn check(target: &Target, report: &mut Report) {
    report.note(RISES, rises(target).await);
    report.note(TOMBSTONE, tombstone(target).await);
    let watched = Watched::default();
    report.note(CONCURRENT, concurrent(target, &watched).await);
    report.note(STATE, watched.states(target));
}

/// The text of a number, to be written.
pub(super) fn text(number: u64) -> String {
    format!("{MARK}{number}.")
}

/// The number that was written into this state.
pub(super) fn number_in(item: &Value) -> Option<u64> {
    let state = item["state"].to_string();
    let (_, rest) = state.split_once(MARK)?;
    rest.split_once('.')?.0.parse().ok()
}

/// The version of an entity that must have this status.
async fn version_as(target: &Target, status: &str) -> Result<u64, Doubt> {
    let item = target.one(LIFE).await?;
    match item["status"] == status {
        true => Ok(version(&item)),
        false => broken(format!("{LIFE} is {} where it should be {status:?}", item["status"])),
    }
}

async fn rises(target: &Target) -> Tried {
    let mut before = 0;
    for (change, status) in [
        ("creation", "live"),
        ("an edit", "live"),
        ("deletion", "deleted"),
        ("re-creation", "live"),
        ("another deletion", "deleted"),
    ] {
        match status {
            "live" => target.put(LIFE, &text(before)).await?,
            _ => target.delete(LIFE).await?,
        }
        let item = target.one(LIFE).await?;
        // That it is still known is another rule.
        if item["status"] == "unknown" {
            continue;
        }
        let now = version(&item);
        ensure(now > before, || {
            format!("after {change} the version is {now}, and it was {before}")
        })?;
        before = now;
    }
    Ok(())
}

async fn tombstone(target: &Target) -> Tried {
    target.put(LIFE, &text(1)).await?;
    target.delete(LIFE).await?;
    let version = version_as(target, "deleted").await?;
    let after = &LIFE[..LIFE.len() - 1];
    let rows = target.some(after, 1_000).await?;
    match rows.iter().find(|row| row.id == LIFE) {
        None => return broken(format!("items does not list the deleted {LIFE}")),
        Some(row) if !row.deleted => {
            return broken(format!("items lists the deleted {LIFE} as live"));
        }
        Some(row) => ensure(row.version == version, || {
            format!("items lists it at {}, not {version}", row.version)
        })?,
    }
    deleted(target, LIFE).await
}

/// What readers have seen of one entity.
#[derive(Default)]
struct Watched {
    newest: Cell<u64>,
    states: RefCell<HashMap<u64, u64>>,
    /// How a version was seen with two states.
    mixed: RefCell<Option<String>>,
    done: Cell<bool>,
}

impl Watched {
    /// Reads the entity once. It must not be older than what was read before this began.
    async fn look(&self, target: &Target) -> Result<u64, Doubt> {
        let floor = self.newest.get();
        let item = target.one(MANY).await?;
        let now = version(&item);
        ensure(now >= floor, || format!("version {now} was answered after {floor}"))?;
        self.newest.set(self.newest.get().max(now));
        if let Some(number) = number_in(&item) {
            let known = *self.states.borrow_mut().entry(now).or_insert(number);
            if known != number {
                let how = format!(
                    "version {now} was answered with write {known} and with write {number}"
                );
                self.mixed.borrow_mut().get_or_insert(how);
            }
        }
        Ok(now)
    }

    fn states(&self, target: &Target) -> Tried {
        target.writes()?;
        match (self.mixed.take(), self.states.borrow().is_empty()) {
            (Some(how), _) => broken(how),
            (None, true) => {
                Err(Doubt::NotTried("no state contained the text that was written".to_owned()))
            }
            (None, false) => Ok(()),
        }
    }
}

async fn concurrent(target: &Target, watched: &Watched) -> Tried {
    target.put(MANY, &text(0)).await?;
    watched.look(target).await?;
    let write = async |writer: u64| {
        for n in 1..=WRITES {
            let before = watched.newest.get();
            target.put(MANY, &text(writer * WRITES + n)).await?;
            let now = watched.look(target).await?;
            ensure(now > before, || {
                format!("a write left the version at {now}, which it had before")
            })?;
        }
        Ok(())
    };
    let read = async || {
        while !watched.done.get() {
            watched.look(target).await?;
        }
        Ok(())
    };
    let writing = async {
        let written = try_join_all((0..WRITERS).map(&write)).await;
        watched.done.set(true);
        written
    };
    let (written, read) = join(writing, try_join_all((0..READERS).map(|_| read()))).await;
    target.delete(MANY).await?;
    written.and(read).map(drop)
}
