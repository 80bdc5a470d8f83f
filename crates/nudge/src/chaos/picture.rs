//! A live picture on a terminal, plain lines elsewhere; both on standard error.

use std::{io::IsTerminal, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::board::State;
use crate::{
    client::Service,
    output::{count, duration},
};

/// What is shown while a run goes on.
#[derive(Debug)]
pub(super) struct Picture(Option<Drawn>);

#[derive(Debug)]
struct Drawn {
    all: MultiProgress,
    time: ProgressBar,
    faults: ProgressBar,
    subscribers: ProgressBar,
}

impl Picture {
    /// Of a run of this length.
    pub(super) fn new(millis: u64) -> Self {
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
                subscribers: line(ProgressBar::no_length(), "{wide_msg}"),
                all: all.clone(),
            }
        }))
    }

    /// A line that stays.
    pub(super) fn say(&self, line: &str) {
        match &self.0 {
            // It fails when the terminal is gone: then nobody reads it.
            Some(drawn) => drop(drawn.all.println(line)),
            None => eprintln!("chaos: {line}"),
        }
    }

    /// A fault that begins: on a terminal it is seen, and needs no line.
    pub(super) fn tell(&self, line: &str) {
        if self.0.is_none() {
            eprintln!("chaos: {line}");
        }
    }

    /// Draws how things stand.
    pub(super) fn draw(&self, elapsed: Duration, edits: u64, state: &State) {
        if let Some(drawn) = &self.0 {
            let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            let over = drawn.time.length().is_some_and(|length| millis > length);
            drawn.time.set_position(millis.min(drawn.time.length().unwrap_or(millis)));
            let phase = if over { " · healed; comparing" } else { "" };
            let faults = count(state.done.values().sum(), "fault");
            drawn.time.set_message(format!("{}, {faults}{phase}", count(edits, "edit")));
            drawn.faults.set_message(faults_line(state));
            drawn.subscribers.set_message(subscribers_line(state));
        }
    }

    /// Takes the picture away.
    pub(super) fn done(&self) {
        if let Some(drawn) = &self.0 {
            for bar in [&drawn.time, &drawn.faults, &drawn.subscribers] {
                bar.finish_and_clear();
            }
        }
    }
}

fn faults_line(state: &State) -> String {
    let faults: Vec<_> = state.under_way.values().map(ToString::to_string).collect();
    if faults.is_empty() { "—".to_owned() } else { faults.join(" · ") }
}

fn subscribers_line(state: &State) -> String {
    let one = |(service, follower): (Service, &super::board::Follower)| match &follower.status {
        None => format!("{}: away", service.name()),
        Some(status) => {
            let lag = duration(status.lag_seconds.unwrap_or_default());
            format!("{}: lag {lag}, {} queued", service.name(), status.queued)
        }
    };
    let all = Service::SUBSCRIBERS.into_iter().zip(&state.subscribers);
    all.map(one).collect::<Vec<_>>().join(" · ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chaos::plan::{Databases, Plan};

    #[test]
    fn faults_under_way_and_subscribers_are_named() {
        let mut state = State::default();
        assert_eq!(faults_line(&state), "—");
        assert_eq!(subscribers_line(&state), "search: away · review: away");
        let plan = Plan::generate(1, 60_000, Databases::Sqlite);
        state.began(0, &plan.faults[0]);
        state.began(1, &plan.faults[1]);
        let expected = format!("{} · {}", plan.faults[0], plan.faults[1]);
        assert_eq!(faults_line(&state), expected);
        let status = json!({"entity": "store", "lag_seconds": 0.25, "queued": 3});
        state.subscribers[1].status = serde_json::from_value(status).unwrap();
        assert_eq!(subscribers_line(&state), "search: away · review: lag 250 ms, 3 queued");
    }
}
