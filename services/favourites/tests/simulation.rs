//! The service's mirror of stores in the simulation: reordered, lost and repeated notifications, crashes at every effect,
//! two replicas.

/// The simulation has its own databases, in memory, so it runs once, whatever database is under test.
mod once {
    use favourites::{StoreState, stores};
    use nudge_simulation::{Mirrored, Profile, explore};
    use serde_json::json;

    fn known_stores() -> Mirrored<StoreState> {
        Mirrored::new("store", stores, |random| {
            let name = *random.one_of(&["달빛국수", "별빛김밥", "it's"]);
            json!({"name": name, "open": random.chance(500), "phone": "02-123"})
        })
    }

    #[test]
    fn what_favourites_know_of_stores_is_right_whatever_happens_to_messages_and_programs() {
        for profile in Profile::ALL {
            // A mirror like that of review, which is explored with more.
            explore(known_stores(), profile, 0..8);
        }
    }
}
