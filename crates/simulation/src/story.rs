//! The story of a run: who did what, when, and which rules were broken.

use std::{
    hash::{DefaultHasher, Hasher},
    time::Duration,
};

/// A longer story counts as endless.
const MAX_LINES: usize = 20_000;

/// See the module documentation.
#[derive(Default)]
pub(crate) struct Story {
    lines: Vec<(Duration, String)>,
    hash: DefaultHasher,
    /// The story is too long: an endless loop ends here.
    endless: bool,
    violations: Vec<String>,
}

impl Story {
    /// Adds a line.
    pub(crate) fn tell(&mut self, at: Duration, line: String) {
        self.hash.write_u128(at.as_nanos());
        self.hash.write(line.as_bytes());
        if self.lines.len() < MAX_LINES {
            self.lines.push((at, line));
        } else if !self.endless {
            self.endless = true;
            self.violations.push(format!("a run without end: more than {MAX_LINES} lines"));
        }
    }

    /// A rule is broken.
    pub(crate) fn violated(&mut self, at: Duration, rule: String) {
        self.tell(at, format!("VIOLATED: {rule}"));
        self.violations.push(rule);
    }

    /// Whether it is an endless loop: then every program ends.
    pub(crate) fn is_endless(&self) -> bool {
        self.endless
    }

    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(crate) fn lines(&self) -> &[(Duration, String)] {
        &self.lines
    }

    /// The hash of the course of events.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever goes round and round must end in a report, not in a process that is out of memory.
    #[test]
    fn a_story_without_end_is_a_broken_rule_told_once() {
        let mut story = Story::default();
        let mut tell = |line: String| {
            story.tell(Duration::ZERO, line);
            (story.is_endless(), story.violations().len(), story.lines().len())
        };
        let full = (0..MAX_LINES).map(|n| tell(format!("line {n}"))).last();
        assert_eq!(full, Some((false, 0, MAX_LINES)));
        let beyond = (0..3).map(|_| tell("on and on".to_owned())).last();
        assert_eq!(beyond, Some((true, 1, MAX_LINES)));
    }
}
