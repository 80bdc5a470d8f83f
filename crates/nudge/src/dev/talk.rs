//! Progress messages: a spinner on a terminal, plain lines elsewhere.

use std::{
    io::IsTerminal,
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

/// Interval between frames of the spinner.
const FRAME: Duration = Duration::from_millis(100);
/// Without a terminal, a task is mentioned again each time this much passes.
const REMIND_AFTER: Duration = Duration::from_secs(2);

/// Writes to standard error. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    verb: &'static str,
    spinner: Option<ProgressBar>,
    current: Arc<Mutex<Option<Task>>>,
}

#[derive(Debug)]
struct Task {
    what: String,
    began: Instant,
    reminded: Instant,
}

impl Talk {
    pub(crate) fn new() -> Self {
        Self::named("dev")
    }

    /// For the verb of this name.
    pub(crate) fn named(verb: &'static str) -> Self {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}");
            let bar = ProgressBar::no_length();
            bar.with_style(style.expect("the template is a constant"))
        });
        Self { verb, spinner, current: Arc::default() }
    }

    /// Says what is being done or waited for now. May be called often.
    pub(crate) fn doing(&self, what: &str) {
        let mut current = self.current.lock();
        let now = Instant::now();
        let same = current.as_mut().filter(|task| task.what == what);
        match (&self.spinner, same) {
            (Some(_), Some(_)) => {}
            (Some(spinner), None) => {
                spinner.enable_steady_tick(FRAME);
                spinner.set_message(what.to_owned());
            }
            (None, Some(task)) if now - task.reminded > REMIND_AFTER => {
                task.reminded = now;
                eprintln!("{}: {what} ({} s)", self.verb, task.began.elapsed().as_secs());
            }
            (None, Some(_)) => {}
            (None, None) => eprintln!("{}: {what}", self.verb),
        }
        if current.as_ref().is_none_or(|task| task.what != what) {
            *current = Some(Task { what: what.to_owned(), began: now, reminded: now });
        }
    }

    /// A line that stays.
    pub(crate) fn say(&self, line: &str) {
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// The task is done.
    pub(crate) fn done(&self) {
        *self.current.lock() = None;
        if let Some(spinner) = &self.spinner {
            spinner.disable_steady_tick();
            spinner.finish_and_clear();
        }
    }
}
