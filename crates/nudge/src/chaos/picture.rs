//! A live display on a terminal, plain lines elsewhere; both on standard error.

use std::{io::IsTerminal, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use nudge_protocol::{Timestamp, admin::EntityStatus};

use super::board::{Follower, State};
use crate::output::{count, duration};

/// What is shown during a run.
#[derive(Debug)]
pub(super) struct Picture(Option<Drawn>);

#[derive(Debug)]
struct Drawn {
    all: MultiProgress,
    time: ProgressBar,
    faults: ProgressBar,
    /// A line for each.
    subscribers: Vec<ProgressBar>,
}

impl Picture {
    /// For a run of this length, with this many subscribers.
    pub(super) fn new(millis: u64, subscribers: usize) -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let line = |bar: ProgressBar, template| {
                let style = ProgressStyle::with_template(template);
                all.add(bar.with_style(style.expect("the template is a constant")))
            };
            let time = "{bar:30.cyan} {elapsed} {wide_msg}";
            Drawn {
                time: line(ProgressBar::new(millis), time),
                faults: line(ProgressBar::no_length(), "now: {wide_msg:.yellow}"),
                subscribers: (0..subscribers)
                    .map(|_| line(ProgressBar::no_length(), "{wide_msg}"))
                    .collect(),
                all: all.clone(),
            }
        }))
    }

    /// A line that stays.
    pub(super) fn say(&self, line: &str) {
        match &self.0 {
            // It fails if the terminal is gone, and then nobody reads it.
            Some(drawn) => drop(drawn.all.println(line)),
            None => eprintln!("chaos: {line}"),
        }
    }

    /// A fault that begins: a terminal shows it anyway, so it needs no line there.
    pub(super) fn tell(&self, line: &str) {
        if self.0.is_none() {
            eprintln!("chaos: {line}");
        }
    }

    /// Draws the current state.
    pub(super) fn draw(&self, elapsed: Duration, edits: u64, state: &State) {
        if let Some(drawn) = &self.0 {
            let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            let over = drawn.time.length().is_some_and(|length| millis > length);
            drawn.time.set_position(millis.min(drawn.time.length().unwrap_or(millis)));
            let phase = if over { " · healed; comparing" } else { "" };
            let faults = count(state.done.values().sum(), "fault");
            drawn.time.set_message(format!("{}, {faults}{phase}", count(edits, "edit")));
            drawn.faults.set_message(faults_line(state));
            let now = nudge_runtime::clock::now();
            for (line, follower) in drawn.subscribers.iter().zip(&state.subscribers) {
                line.set_message(follower_line(follower, now));
            }
        }
    }

    /// Clears the display.
    pub(super) fn done(&self) {
        if let Some(drawn) = &self.0 {
            for bar in drawn.subscribers.iter().chain([&drawn.time, &drawn.faults]) {
                bar.finish_and_clear();
            }
        }
    }
}

fn faults_line(state: &State) -> String {
    let faults: Vec<_> = state.under_way.values().map(ToString::to_string).collect();
    if faults.is_empty() { "—".to_owned() } else { faults.join(" · ") }
}

/// Besides the lag of the last applied change, which does not move while its subscriber stalls: whether
/// it is connected, when it last made progress, and what is left to do.
fn follower_line(Follower { name, status, .. }: &Follower, now: Timestamp) -> String {
    let Some(status) = status else { return format!("{name}: away") };
    let EntityStatus { queued, lag_seconds, last_progress, stream_pending, .. } = status;
    let pending = stream_pending.map_or_else(|| "?".to_owned(), |pending| pending.to_string());
    let progress = match last_progress {
        Some(at) => format!("last progress {} ago", duration(now.seconds_since(*at))),
        None => "no progress yet".to_owned(),
    };
    match status.connected {
        // What the broker has for it by now is not known.
        Some(false) => {
            format!("{name}: CUT OFF · {progress} · {queued} queued, {pending} pending before")
        }
        _ => {
            let lag = duration(lag_seconds.unwrap_or_default());
            format!("{name}: lag {lag} · {progress} · {queued} queued, {pending} pending")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chaos::plan::{Databases, Plan};

    #[test]
    fn faults_under_way_are_named() {
        let mut state = State::default();
        assert_eq!(faults_line(&state), "—");
        let plan = Plan::generate(1, 60_000, Databases::Sqlite, 1);
        state.began(0, &plan.faults[0]);
        state.began(1, &plan.faults[1]);
        let expected = format!("{} · {}", plan.faults[0], plan.faults[1]);
        assert_eq!(faults_line(&state), expected);
    }

    #[test]
    fn a_subscriber_that_is_cut_off_is_not_shown_by_an_old_lag() {
        let now = Timestamp::from_unix_micros(1_700_000_000_000_000);
        let mut follower = Follower { name: "search".to_owned(), ..Follower::default() };
        assert_eq!(follower_line(&follower, now), "search: away");
        let mut shown = |status| {
            follower.status = Some(serde_json::from_value(status).unwrap());
            follower_line(&follower, now)
        };
        assert_eq!(
            shown(json!({"entity": "store"})),
            "search: lag 0.0 ms · no progress yet · 0 queued, ? pending"
        );
        let mut status = json!({
            "entity": "store", "lag_seconds": 0.25, "queued": 3, "stream_pending": 4, "connected": true,
            "last_progress": Timestamp::from_unix_micros(now.unix_micros() - 12_000_000),
        });
        assert_eq!(
            shown(status.clone()),
            "search: lag 250 ms · last progress 12.0 s ago · 3 queued, 4 pending"
        );
        status["connected"] = json!(false);
        assert_eq!(
            shown(status),
            "search: CUT OFF · last progress 12.0 s ago · 3 queued, 4 pending before"
        );
    }
}
