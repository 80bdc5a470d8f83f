//! What must hold at the end: everyone has converged and stays so, and nothing is left to do.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::sleep;

use super::theatre::Theatre;
use crate::{fault::Fault, profile::Profile};

/// Time allowed to converge once everything is healed. Virtual, so it costs nothing.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// Time for what is still in transit, longer than an acknowledgement may take; and as long
/// again, in which silence is required.
const SILENCE: Duration = Duration::from_secs(40);
/// Time after which everyone must still be converged.
const MOMENT: Duration = Duration::from_secs(2);
/// What need not have converged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Except {
    None,
    /// What a service cannot apply.
    Spoilt,
}

impl Theatre {
    /// Waits until everyone has converged, leaving some IDs out.
    pub(crate) async fn in_step(&self, except: Except) {
        let began = self.world.elapsed();
        while let Some(difference) = self.differs(except) {
            if self.world.is_violated() {
                return;
            }
            if self.world.elapsed() > began + PATIENCE {
                return self.world.violated(format!("never in step: {difference}"));
            }
            sleep(Duration::from_secs(1)).await;
        }
        self.world.tell(format!("in step after {:?}", self.world.elapsed() - began));
    }

    pub(crate) async fn stays_in_step(&self) {
        if self.world.profile() == Profile::Liveness {
            self.silence().await;
        } else {
            sleep(MOMENT).await;
        }
        if let Some(difference) = self.differs(Except::None) {
            self.world.violated(format!("out of step again: {difference}"));
        }
    }

    /// What has not converged: a read model, or the stream, which must hold the newest version of each entity
    /// for new subscribers.
    fn differs(&self, except: Except) -> Option<String> {
        let read_models = self.followers.iter().map(|follower| &follower.read_model);
        let mut differences = read_models.filter_map(|read_model| {
            let except = match except {
                Except::None => BTreeSet::new(),
                Except::Spoilt => self.world.spoilt(&read_model.name),
            };
            read_model
                .differs(&except)
                .map(|difference| format!("{}{difference}", read_model.whose))
        });
        // What the broker has lost for good stays lost there until it changes again.
        let whole = self.world.profile() != Profile::Unannounced;
        differences.next().or_else(|| whole.then(|| self.stream_differs()).flatten())
    }

    fn stream_differs(&self) -> Option<String> {
        self.history.versions().newest().find_map(|(id, newest)| {
            let version = newest.map_or(0, |newest| newest.version);
            let subject = self.subject(id);
            let shown =
                self.world.with_broker(|broker| broker.version_on(&subject).map(str::to_owned));
            (shown != Some(version.to_string()))
                .then(|| format!("the stream shows {id}@{shown:?}; its owner is at {version}"))
        })
    }

    /// Waits until nothing is left to do.
    pub(crate) async fn nothing_is_left(&self) {
        let began = self.world.elapsed();
        while let Some(left) = self.left().await {
            if self.world.is_violated() {
                return;
            }
            if self.world.elapsed() > began + PATIENCE {
                return self.world.violated(format!("never at rest: {left}"));
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// What is left to do, if anything: for the relay, for the broker, or for a subscriber.
    async fn left(&self) -> Option<String> {
        if self.owner_has_pending().await {
            return Some("changes are not published".to_owned());
        }
        for follower in &self.followers {
            if let Some(left) = follower.left().await {
                return Some(left);
            }
        }
        None
    }

    /// What only a restored owner or somebody's edit can cause is reported after one of those alone.
    pub(crate) async fn no_difference_is_invented(&self) {
        let world = &self.world;
        if [Fault::OwnerRestored, Fault::RowEdited].iter().any(|fault| world.has_happened(*fault)) {
            return;
        }
        for follower in &self.followers {
            if let Some(line) =
                follower.reports(&["ghost", "stale", "ahead", "altered", "stray"]).await
            {
                world.violated(format!("{}{line}, and nobody did that", follower.read_model.whose));
            }
        }
    }

    /// Nothing is left to do: no message, no call.
    async fn silence(&self) {
        sleep(SILENCE).await;
        let calls = self.world.calls();
        sleep(SILENCE).await;
        if self.world.calls() != calls {
            self.world.violated("calls continue although nothing changes");
        }
        if let Some(left) = self.left().await {
            self.world.violated(format!("not silent: {left}"));
        }
    }
}
