//! How many changes a second one subscriber works off, of a backlog that it finds at its start.

use nudge_runtime::{BoxError, database::Kind};

use super::{Bench, OURS};
use crate::{
    peers::{bare::Bare, by_hand, fat, logical},
    report::{Aim, Figure},
    security::Access,
    subscriber::Subscriber,
    world::Owner,
};

pub(super) const NAME: &str = "drain";
const BY_HAND: &str = "by hand";
const BY_HAND_16: &str = "by hand, 16 at a time";
const FAT: &str = "fat events";
const BARE: &str = "bare hops";
const LOGICAL: &str = "logical replication";
const TOKENS: &str = "nudge, tokens";
const TLS: &str = "nudge, tokens and TLS";
/// Messages that the loop by hand works off, and the one of 16 at a time.
const BY_HAND_CHANGES: usize = 3_000;
const BY_HAND_16_CHANGES: usize = 8_000;

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    let (world, owner, things) = (&bench.world, &bench.owner, bench.things);
    let aims = match bench.kind() {
        Kind::Sqlite => [(17.0, BY_HAND), (0.95, FAT), (0.97, BARE)].to_vec(),
        Kind::Postgres => [(12.0, BY_HAND), (0.9, BARE)].to_vec(),
    };
    let aims = aims.into_iter().map(|(bound, label)| Aim::at_least(bound, label)).collect();
    let title = "changes drained by one subscriber";
    let mut figure = Figure::new(NAME, title, bench.kind(), "/s", aims);
    let title = "changes drained, with tokens and TLS";
    let mut secure = Figure::new(NAME, title, bench.kind(), "/s", Vec::new());
    fat::fill(world, things).await?;
    let bare = Bare::start(world).await?;
    bare.fill(things).await?;
    bench
        .rounds(NAME, async |_| {
            let ours = kit(bench, owner).await?;
            figure.add(OURS, ours);
            let few = bench.some(BY_HAND_CHANGES);
            figure.add(BY_HAND, by_hand::drain(world, owner, few, 1).await?);
            let some = bench.some(BY_HAND_16_CHANGES);
            figure.add(BY_HAND_16, by_hand::drain(world, owner, some, 16).await?);
            figure.add(FAT, fat::drain(world, things).await?);
            figure.add(BARE, bare.drain(world, things).await?);
            if bench.kind() == Kind::Postgres {
                figure.add(LOGICAL, logical::drain(world, owner, things).await?);
            }
            Ok(())
        })
        .await?;
    // Their relays would run beside the others.
    let tokens = world.replica(owner, Access::Tokens).await?;
    let tls = world.replica(owner, Access::TokensAndTls).await?;
    bench
        .rounds("drain, with tokens and TLS,", async |_| {
            secure.add(TLS, kit(bench, &tls).await?);
            secure.add(TOKENS, kit(bench, &tokens).await?);
            secure.add("nudge, open", kit(bench, owner).await?);
            Ok(())
        })
        .await?;
    tokens.stop().await;
    tls.stop().await;
    Ok(vec![figure, secure])
}

/// How many changes a second a new subscriber on the kit applies.
async fn kit(bench: &Bench<'_>, owner: &Owner) -> Result<f64, BoxError> {
    let subscriber = Subscriber::start(&bench.world, owner, "copies").await?;
    let pace = subscriber.drained(bench.things).await?;
    subscriber.stop(&bench.world).await?;
    Ok(pace)
}
