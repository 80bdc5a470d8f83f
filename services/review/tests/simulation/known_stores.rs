//! Review in the simulation: its mirror of stores.

use nudge_simulation::Mirrored;
use review::stores::{self, StoreState};
use serde_json::json;

pub(crate) fn known_stores() -> Mirrored<StoreState> {
    Mirrored::new("store", stores::mirror, |random| {
        let name = *random.one_of(&["달빛국수", "별빛김밥", "it's"]);
        json!({"name": name, "open": random.chance(500), "phone": "02-123"})
    })
}
