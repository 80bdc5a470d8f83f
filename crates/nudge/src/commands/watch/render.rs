//! Rows as lines of text, and as JSON.

use console::{Alignment, StyledObject, measure_text_width, pad_str, style, truncate_str};
use serde_json::{Value, json};

use super::{
    board::Board,
    row::{Row, Step},
    summary::percentiles,
};
use crate::output::{count, duration, table};

/// Width of a subscriber's result, such as `1.2 ms` or `overtaken`.
const RESULT_WIDTH: usize = 9;
/// Width of a time of day with milliseconds.
const TIME_WIDTH: usize = 12;
/// Width of a version in microseconds, with its `@`.
const WHOLE_VERSION_WIDTH: usize = 17;
/// Width of what is said of all subscribers where there is no room for each.
const SHORT_RESULTS_WIDTH: usize = 34;
/// Width of an entity's name, at least.
const MIN_NAME_WIDTH: usize = 12;
/// Width of an entity's name, at most: about 14 Korean syllables.
const MAX_NAME_WIDTH: usize = 28;
/// What stands for a version in a narrow terminal: its last digits.
const SHORT_VERSION_DIGITS: usize = 6;
/// Lags below this are normal for a change on this machine, in milliseconds.
const FAST_MS: f64 = 50.0;
/// Lags from this on are noticeable to a person, in milliseconds.
const SLOW_MS: f64 = 1_000.0;

/// Which columns there is room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    width: Option<usize>,
    time: bool,
    entity: bool,
    key: usize,
    name: usize,
    whole_version: bool,
    /// Whether each subscriber has a column.
    columns: bool,
}

impl Layout {
    /// For a terminal this wide; `None` for a file or a pipe, which has no width.
    pub(crate) fn new(width: Option<usize>, subscribers: &[&str]) -> Self {
        let room = width.unwrap_or(usize::MAX);
        let (time, entity, whole_version) = (room >= 96, room >= 104, room >= 126);
        let key = match room {
            126.. => 24,
            104.. => 20,
            _ => 14,
        };
        // What the other columns, their gaps and the free cell at the end take.
        let others = key
            + if time { TIME_WIDTH + 2 } else { 0 }
            + if whole_version { WHOLE_VERSION_WIDTH } else { SHORT_VERSION_DIGITS + 2 }
            + 10;
        let each = subscribers.iter().map(|name| measure_text_width(name) + 1 + RESULT_WIDTH + 2);
        let each: usize = each.sum::<usize>().saturating_sub(2);
        let columns = others + each + MIN_NAME_WIDTH <= room;
        let results = if columns { each } else { SHORT_RESULTS_WIDTH };
        let name = room.saturating_sub(others + results).clamp(MIN_NAME_WIDTH, MAX_NAME_WIDTH);
        Self { width, time, entity, key, name, whole_version, columns }
    }

    fn fit(&self, line: &str) -> String {
        match self.width {
            // One cell stays free: a full line would make some terminals go to the next.
            Some(width) => truncate_str(line, width.saturating_sub(1), "…").into_owned(),
            None => line.to_owned(),
        }
    }
}

/// A change as one line, with a second one below it for each failure.
pub(crate) fn lines(row: &Row, subscribers: &[&str], layout: &Layout) -> Vec<String> {
    let mut columns = Vec::new();
    if layout.time {
        let committed = row.committed_at.map(|at| at.to_string()[11..23].to_owned());
        columns.push(style(pad(&committed.unwrap_or_default(), TIME_WIDTH)).dim().to_string());
    }
    let entity = if layout.entity { format!("{} ", row.key.0) } else { String::new() };
    columns.push(pad(&format!("{entity}{}", row.key.1), layout.key));
    columns.push(name(row, layout));
    columns.push(style(version(row, layout)).dim().to_string());
    let steps = row.steps.iter().zip(subscribers);
    columns.push(style("→").dim().to_string());
    columns.push(match layout.columns {
        true => steps.map(|(step, name)| result(step, name)).collect::<Vec<_>>().join("  "),
        false => results(&row.steps, subscribers),
    });
    let mut line = columns.join("  ").trim_end().to_owned();
    let late = style("  (late)").dim().to_string();
    let room = layout.width.unwrap_or(usize::MAX);
    if row.told && measure_text_width(&line) + measure_text_width(&late) < room {
        line.push_str(&late);
    }
    let mut lines = vec![layout.fit(&line)];
    for (step, subscriber) in row.steps.iter().zip(subscribers) {
        let (Step::Retrying { detail, .. } | Step::DeadLetter { detail }) = step else {
            continue;
        };
        if !detail.is_empty() {
            let line = format!("  └ {subscriber}: {}", detail.replace(char::is_control, " "));
            lines.push(layout.fit(&style(line).dim().to_string()));
        }
    }
    lines
}

fn name(row: &Row, layout: &Layout) -> String {
    let name = row.name.as_deref().unwrap_or_default();
    if !row.deleted {
        return style(pad(name, layout.name)).bold().to_string();
    }
    let mark = if layout.whole_version { "✕ deleted" } else { "✕" };
    let name = truncate_str(name, layout.name.saturating_sub(measure_text_width(mark) + 1), "…");
    let gap = if name.is_empty() { "" } else { " " };
    pad(&format!("{}{gap}{}", style(mark).red(), style(name).strikethrough()), layout.name)
}

fn version(row: &Row, layout: &Layout) -> String {
    let Some(version) = row.version else {
        return pad("", SHORT_VERSION_DIGITS + 2);
    };
    let digits = version.to_string();
    match layout.whole_version || digits.len() <= SHORT_VERSION_DIGITS {
        true => format!("@{digits}"),
        false => format!("@…{}", &digits[digits.len() - SHORT_VERSION_DIGITS..]),
    }
}

fn result(step: &Step, subscriber: &str) -> String {
    let right = |text: &str| pad_str(text, RESULT_WIDTH, Alignment::Right, None).into_owned();
    let shown: StyledObject<String> = match step {
        Step::NotFollowed => style(right("—")).dim(),
        Step::Waiting => style(right("waiting")).dim(),
        Step::Received => style(right("received")).cyan(),
        Step::Fetched => style(right("fetched")).cyan(),
        Step::Ignored => style(right("had it")).dim(),
        Step::Overtaken { .. } => style(right("overtaken")).dim(),
        Step::Retrying { times, .. } => style(right(&format!("↻ retry {times}"))).yellow(),
        Step::DeadLetter { .. } => style(right("✗ dead")).red().bold(),
        Step::Applied { lag_ms: None } => style(right("applied")).green(),
        Step::Applied { lag_ms: Some(ms) } => {
            let text = style(right(&duration(ms / 1e3)));
            match *ms {
                ms if ms < FAST_MS => text.green(),
                ms if ms < SLOW_MS => text.yellow(),
                _ => text.red(),
            }
        }
    };
    format!("{} {shown}", style(subscriber).dim())
}

/// All results in a few words: how many have it, and who does not, or who was the last.
fn results(steps: &[Step], subscribers: &[&str]) -> String {
    let steps = steps.iter().zip(subscribers).filter(|(step, _)| **step != Step::NotFollowed);
    let steps: Vec<_> = steps.collect();
    let all = steps.len();
    let has = steps.iter().filter(|(step, _)| step.is_good()).count();
    let dead = steps.iter().find(|(step, _)| matches!(step, Step::DeadLetter { .. }));
    let retried = steps.iter().find(|(step, _)| matches!(step, Step::Retrying { .. }));
    let open = steps.iter().find(|(step, _)| !step.is_final());
    let lag = |step: &Step| match step {
        Step::Applied { lag_ms } => *lag_ms,
        _ => None,
    };
    let lags = steps.iter().filter_map(|(step, name)| Some((lag(step)?, name)));
    let slowest = lags.max_by(|(one, _), (other, _)| one.total_cmp(other));
    let (text, name) = match (dead, retried, open, slowest) {
        (Some((_, name)), ..) => (style("✗ dead".to_owned()).red().bold(), name),
        (_, Some((_, name)), ..) => (style("↻ retry".to_owned()).yellow(), name),
        (_, _, Some((_, name)), _) => (style("waiting".to_owned()).dim(), name),
        (_, _, _, Some((ms, name))) => (style(duration(ms / 1e3)).green(), name),
        (None, None, None, None) => return format!("{has}/{all}"),
    };
    format!("{has}/{all}  {} {text}", style(name).dim())
}

fn pad(text: &str, width: usize) -> String {
    pad_str(text, width, Alignment::Left, Some("…")).into_owned()
}

/// A change as JSON.
pub(crate) fn row_json(row: &Row, subscribers: &[&str]) -> Value {
    let steps =
        row.steps.iter().zip(subscribers).map(|(step, name)| ((*name).to_owned(), json!(step)));
    json!({
        "kind": "change",
        "entity": row.key.0,
        "id": row.key.1,
        "name": row.name,
        "version": row.version,
        "deleted": row.deleted,
        "committed_at": row.committed_at,
        "settled": row.is_settled(),
        "subscribers": steps.collect::<serde_json::Map<_, _>>(),
    })
}

/// The line at the bottom of the terminal.
pub(crate) fn footer(board: &Board, subscribers: &[&str], up: &[bool], layout: &Layout) -> String {
    let states = subscribers.iter().zip(up).map(|(name, up)| match up {
        true => format!("{} {name}", style("●").green()),
        false => format!("{} {name} is away", style("○").red()),
    });
    let mut parts = vec![states.collect::<Vec<_>>().join("  "), count(board.changes, "change")];
    let under_way = board.under_way();
    if under_way > 0 {
        parts.push(format!("{under_way} under way"));
    }
    let recent = board.tallies.iter().flat_map(super::summary::Tally::recent).collect();
    if let Some(lags) = percentiles(recent) {
        parts.push(format!("p50 {}  p99 {}", duration(lags.p50), duration(lags.p99)));
    }
    parts.push(style("Ctrl-C ends").dim().to_string());
    layout.fit(&parts.join(&style("  ·  ").dim().to_string()))
}

/// What it came to, for a person.
pub(crate) fn summary(board: &Board, subscribers: &[&str], seconds: f64) -> Vec<String> {
    let heading = ["", "applied", "p50", "p99", "max", "had it", "retried", "dead letters"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for (tally, name) in board.tallies.iter().zip(subscribers) {
        let lags = tally.lags();
        let lag = |value: Option<f64>| value.map_or_else(|| "—".to_owned(), duration);
        rows.push(vec![
            (*name).to_owned(),
            tally.applied.to_string(),
            lag(lags.map(|lags| lags.p50)),
            lag(lags.map(|lags| lags.p99)),
            lag(lags.map(|lags| lags.max)),
            tally.ignored.to_string(),
            tally.retried.to_string(),
            tally.dead_lettered.to_string(),
        ]);
    }
    let mut lines = vec![format!("{} in {}", count(board.changes, "change"), duration(seconds))];
    lines.extend(table(&rows).into_iter().map(|line| format!("  {line}")));
    lines
}

/// What it came to, as JSON.
pub(crate) fn summary_json(board: &Board, subscribers: &[&str], seconds: f64) -> Value {
    let tallies = board.tallies.iter().zip(subscribers).map(|(tally, name)| {
        let tally = json!({
            "applied": tally.applied,
            "lag_seconds": tally.lags(),
            "ignored": tally.ignored,
            "retried": tally.retried,
            "dead_lettered": tally.dead_lettered,
        });
        ((*name).to_owned(), tally)
    });
    json!({
        "kind": "summary",
        "changes": board.changes,
        "seconds": seconds,
        "subscribers": tallies.collect::<serde_json::Map<_, _>>(),
    })
}

#[cfg(test)]
mod tests;
