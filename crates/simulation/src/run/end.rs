//! What must hold at the end: everyone has converged and stays so, and nothing is left to do.

use std::time::Duration;

use tokio::time::sleep;

use super::{accident::databases::owner_has_pending, theatre::Theatre};
use crate::{fault::Fault, owner::Owned, profile::Profile};

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

    /// What has not converged: what a service keeps, or a stream, which must hold the newest version of each
    /// entity for new subscribers.
    fn differs(&self, except: Except) -> Option<String> {
        let spoilt_too = except == Except::None;
        let mut followers = self.followers.iter();
        let difference = followers.find_map(|follower| follower.contents.differs(spoilt_too));
        // What the broker has lost for good stays lost there until it changes again.
        let whole = self.world.profile() != Profile::Unannounced;
        difference.or_else(|| whole.then(|| self.stream_differs()).flatten())
    }

    fn stream_differs(&self) -> Option<String> {
        let mut entities = self.owners.iter().flat_map(|owner| &owner.entities);
        entities.find_map(|owned| {
            let Owned { entity, history, .. } = &**owned;
            let channel = self.channels.of(entity);
            history.versions().newest().find_map(|(id, newest)| {
                let version = newest.map_or(0, |newest| newest.version);
                let subject = self.subject(entity, id);
                let shown =
                    channel.with_broker(|broker| broker.version_on(&subject).map(str::to_owned));
                let id = history.named(id);
                (shown != Some(version.to_string()))
                    .then(|| format!("the stream shows {id}@{shown:?}; its owner is at {version}"))
            })
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
        for owner in &self.owners {
            if owner_has_pending(owner).await {
                return Some(format!("changes of {} are not published", owner.name));
            }
        }
        for follower in &self.followers {
            if let Some(left) = follower.left(&self.channels).await {
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
                world.violated(format!("{}: {line}, and nobody did that", follower.name));
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
