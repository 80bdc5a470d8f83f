//! Search's own `apply`, with its real SQL and its text index, in the simulation: reordered, lost and
//! repeated notifications, crashes at every effect, two replicas.

mod searchable;

/// The simulation has its own databases, in memory, so it runs once, whatever database is under test.
mod once {
    use nudge_simulation::{Profile, explore};

    use super::searchable::Searchable;

    #[test]
    fn what_search_finds_is_right_whatever_happens_to_messages_and_programs() {
        for profile in Profile::ALL {
            explore(Searchable, profile, 0..20);
        }
    }
}
