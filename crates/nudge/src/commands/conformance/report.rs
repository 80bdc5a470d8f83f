//! What was found: for each rule of the protocol, whether it is kept, and what follows if it is not.

use console::style;
use serde::Serialize;

/// A rule of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Rule {
    /// Its section.
    pub(super) section: &'static str,
    /// What it asks for.
    pub(super) rule: &'static str,
    /// What happens to subscribers of an owner that breaks it.
    pub(super) consequence: &'static str,
}

/// Why a rule does not count as kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The owner breaks it, in this way.
    Broken(String),
    /// It was not tried, for this reason.
    NotTried(String),
}

/// Whether a rule is kept.
pub(super) type Tried = Result<(), Doubt>;

/// The rule is broken, in this way.
pub(super) fn broken<T>(how: impl Into<String>) -> Result<T, Doubt> {
    Err(Doubt::Broken(how.into()))
}

/// The rule is broken in this way, unless `holds`.
pub(super) fn ensure(holds: bool, how: impl FnOnce() -> String) -> Tried {
    if holds { Ok(()) } else { broken(how()) }
}

/// What was found about one rule.
#[derive(Debug, Serialize)]
struct Finding {
    #[serde(flatten)]
    rule: Rule,
    /// `kept`, `broken` or `not_tried`.
    result: &'static str,
    /// How it is broken, or why it was not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// All findings so far.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// Adds what was found about a rule.
    pub(super) fn note(&mut self, rule: Rule, tried: Tried) {
        let (result, detail) = match tried {
            Ok(()) => ("kept", None),
            Err(Doubt::Broken(how)) => ("broken", Some(how)),
            Err(Doubt::NotTried(why)) => ("not_tried", Some(why)),
        };
        self.findings.push(Finding { rule, result, detail });
    }

    /// How many rules are broken.
    pub(super) fn broken(&self) -> usize {
        self.count("broken")
    }

    fn count(&self, result: &str) -> usize {
        self.findings.iter().filter(|finding| finding.result == result).count()
    }

    /// The report for a person, line by line.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.findings.iter().flat_map(Finding::lines).collect();
        let [kept, broken, not_tried] =
            ["kept", "broken", "not_tried"].map(|result| self.count(result));
        lines.push(format!("{kept} kept, {broken} broken, {not_tried} not tried"));
        lines
    }
}

impl Finding {
    fn lines(&self) -> Vec<String> {
        let Rule { section, rule, consequence } = self.rule;
        let mark = match self.result {
            "kept" => style("✓").green(),
            "broken" => style("✗").red(),
            _ => style("–").yellow(),
        };
        let mut lines = vec![format!("{mark} {section:<4} {rule}")];
        match (self.result, &self.detail) {
            ("broken", Some(how)) => {
                lines.push(format!("       {how}"));
                lines.push(format!(
                    "       so {consequence}; see docs/protocol.md, section {section}"
                ));
            }
            (_, Some(why)) => lines.push(format!("       not tried: {why}")),
            (_, None) => {}
        }
        lines
    }
}
