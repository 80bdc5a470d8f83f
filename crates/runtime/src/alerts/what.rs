//! What an operator is told of, and what to do about each.

/// What needs an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A key became a dead letter: it cannot be applied, and is not retried by itself.
    DeadLetter,
    /// Callbacks to an owner are suspended, since it fails.
    BreakerOpen,
    /// Comparing with the owner found differences. They are repaired.
    Difference,
    /// Triggers are not on their table, or not as installed. They are installed again if possible.
    CaptureLost,
    /// A consumer was altered at the broker, or stood still while its stream went on. It was mended, or is bypassed.
    ConsumerMended,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::DeadLetter,
        Self::BreakerOpen,
        Self::Difference,
        Self::CaptureLost,
        Self::ConsumerMended,
    ];

    /// Its name in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeadLetter => "dead-letter",
            Self::BreakerOpen => "breaker-open",
            Self::Difference => "difference",
            Self::CaptureLost => "capture-lost",
            Self::ConsumerMended => "consumer-mended",
        }
    }

    /// What an operator should do, in a sentence, and where the procedure is.
    pub const fn what_to_do(self) -> &'static str {
        match self {
            Self::DeadLetter => {
                "see why with `nudge dead-letters ls`, fix the cause, then `nudge dead-letters replay`: \
                 docs/operations.md#nudgedeadletters"
            }
            Self::BreakerOpen => {
                "see whether the owner runs and answers; calls resume by themselves: \
                 docs/operations.md#nudgebreakeropen"
            }
            Self::Difference => {
                "nothing now, it is repaired; find out why it was missed: \
                 docs/operations.md#nudgedifferencesfound"
            }
            Self::CaptureLost => {
                "find out who changed the captured tables; the triggers are installed again if possible: \
                 docs/operations.md#nudgecapturelost"
            }
            Self::ConsumerMended => {
                "find out who manages the consumer at the broker, or whether the broker has a fault: \
                 docs/operations.md#nudgeconsumertampered"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_names_a_heading_of_the_page() {
        let page = include_str!("../../../../docs/operations.md").to_lowercase();
        for what in What::ALL {
            let (_, anchor) = what.what_to_do().split_once("docs/operations.md#").expect("a page");
            assert!(page.contains(&format!("\n### {anchor}\n")), "{anchor}");
        }
    }
}
