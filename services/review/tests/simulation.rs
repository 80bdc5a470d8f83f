//! Review's own `apply`, with its real SQL, in the simulation: reordered, lost and repeated
//! notifications, crashes at every effect, two replicas.

mod known_stores;

/// The simulation has its own databases, in memory, so it runs once, whatever database is under test.
mod once {
    use nudge_simulation::{Profile, explore};

    use super::known_stores::known_stores;

    #[test]
    fn what_review_knows_of_stores_is_right_whatever_happens_to_messages_and_programs() {
        for profile in Profile::ALL {
            explore(known_stores(), profile, 0..20);
        }
    }
}
