//! The map's read model in the simulation: reordered, lost and repeated notifications, crashes at every
//! effect, two replicas.

/// The simulation has its own databases, in memory, so it runs once, whatever database is under test.
mod once {
    use charging::{
        STATION,
        map::{StationState, mirror},
    };
    use nudge_simulation::{Mirrored, Profile, explore};
    use serde_json::json;

    fn stations() -> Mirrored<StationState> {
        Mirrored::new(STATION, mirror, |random| {
            let charger =
                |state: &str| json!({"connector": "ccs2", "power_kw": 150.0, "state": state});
            let states = ["available", "charging", "out-of-order"];
            let count = random.below(4);
            let mut any = || *random.one_of(&states);
            let chargers: Vec<_> = (0..count).map(|_| charger(any())).collect();
            json!({
                "name": random.one_of(&["시청역", "서울역", "it's"]), "operator": "A",
                "latitude": random.below(1_800) as f64 / 10.0 - 90.0,
                "longitude": random.below(3_600) as f64 / 10.0 - 180.0,
                "chargers": chargers,
            })
        })
    }

    #[test]
    fn the_map_is_right_whatever_happens_to_messages_and_programs() {
        for profile in Profile::ALL {
            explore(stations(), profile, 0..8);
        }
    }
}
