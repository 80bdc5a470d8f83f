//! What happens between one service and one entity that it follows: which IDs fail there, and what its
//! programs were told and have asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use crate::{history::History, profile::Profile};

/// See the module documentation.
pub(crate) struct Followed {
    /// The entity's own.
    pub(crate) history: Arc<History>,
    /// IDs that cannot be applied.
    pub(crate) poison: Mutex<BTreeSet<String>>,
    /// IDs that the owner cannot answer for, each with the status of calls that ask for it.
    pub(crate) unanswered: Mutex<BTreeMap<String, u16>>,
    /// IDs that were among those at some time.
    spoilt: Mutex<BTreeSet<String>>,
    /// IDs for which the owner has answered with something old.
    misled: Mutex<BTreeSet<String>>,
    /// When each program was last notified of each ID, and last asked for it.
    heard: Mutex<BTreeMap<(String, String), Heard>>,
}

#[derive(Clone, Copy, Default)]
struct Heard {
    told: Duration,
    asked: Duration,
}

impl Followed {
    pub(crate) fn new(history: Arc<History>) -> Arc<Self> {
        Arc::new(Self {
            history,
            poison: Mutex::default(),
            unanswered: Mutex::default(),
            spoilt: Mutex::default(),
            misled: Mutex::default(),
            heard: Mutex::default(),
        })
    }

    /// An ID cannot be applied or answered for from here on.
    pub(crate) fn spoil(&self, id: &str) {
        self.spoilt.lock().insert(id.to_owned());
    }

    /// IDs of which that was true at some time.
    pub(crate) fn spoilt(&self) -> BTreeSet<String> {
        self.spoilt.lock().clone()
    }

    /// Everything can be applied and answered for again.
    pub(crate) fn mend(&self) {
        self.poison.lock().clear();
        self.unanswered.lock().clear();
    }

    /// The owner answers with something old.
    pub(crate) fn mislead(&self, id: &str) {
        self.misled.lock().insert(id.to_owned());
    }

    /// Whether it ever did.
    pub(crate) fn was_misled(&self, id: &str) -> bool {
        self.misled.lock().contains(id)
    }

    /// A program is notified of an ID.
    pub(crate) fn told(&self, program: &str, id: &str) {
        let now = self.history.world.elapsed();
        let key = (program.to_owned(), id.to_owned());
        self.heard.lock().entry(key).or_default().told = now;
    }

    /// A program asks for an ID. However often it was notified of it during the last call, that may cost only
    /// one more call; and if nothing fails, there is no other cause.
    pub(crate) fn asked(&self, program: &str, id: &str) {
        let world = &self.history.world;
        world.called();
        let now = world.elapsed();
        let mut heard = self.heard.lock();
        let heard = heard.entry((program.to_owned(), id.to_owned())).or_default();
        let nothing_new = heard.told < heard.asked;
        heard.asked = now;
        let may_fail = self.spoilt.lock().contains(id);
        if world.profile() == Profile::Benign && nothing_new && !may_fail {
            let id = self.history.named(id);
            world.violated(format!("{program} asks for {id} once more without a new notification"));
        }
    }
}
