//! Search and review in one simulation, following the same owner of stores, as in production.

#[path = "../../services/review/tests/simulation/known_stores.rs"]
mod known_stores;
#[path = "../../services/search/tests/simulation/searchable.rs"]
mod searchable;

/// The simulation has its own databases, in memory, so it runs once, whatever database is under test.
mod once {
    use nudge_simulation::{Profile, Simulation};

    use super::{known_stores::known_stores, searchable::Searchable};

    #[test]
    fn search_and_review_follow_one_owner_whatever_happens() {
        let both = Simulation::of("search", Searchable).and("review", known_stores());
        for profile in Profile::ALL {
            both.explore(profile, 0..10);
        }
    }
}
