//! What it costs a subscriber that ten people watch it, while it follows 5,000 changes a second.

use futures_util::StreamExt;
use nudge_runtime::BoxError;
use tokio::{
    sync::oneshot,
    task::{JoinSet, spawn_blocking},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Bench, LEAST_RATE};
use crate::{
    report::{Aim, Figure},
    subscriber::Subscriber,
    usage::cpu_seconds,
};

pub(super) const NAME: &str = "watched";
const WATCHERS: usize = 10;
const CHANGES: usize = 20_000;
const WATCHED: &str = "ten watchers";
const ALONE: &str = "nobody";
/// Where it says how much this process has taken, and this thread.
const PROCESS: &str = "/proc/self/stat";
const THREAD: &str = "/proc/thread-self/stat";

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    if cpu_seconds(PROCESS).is_none() {
        return Ok(Vec::new());
    }
    let title = "CPU of owner and subscriber at 5,000 changes/s, watched by";
    let aims = vec![Aim::at_most(1.1, Some(ALONE))];
    let mut figure = Figure::new(NAME, title, bench.kind(), "% of a core", aims);
    let title = "changes committed meanwhile";
    let mut committed = Figure::new(NAME, title, bench.kind(), "/s", vec![Aim::least(LEAST_RATE)]);
    bench
        .rounds(NAME, async |_| {
            for (label, watchers) in [(WATCHED, WATCHERS), (ALONE, 0)] {
                let (share, pace) = load(bench, watchers).await?;
                figure.add(label, share);
                committed.add(label, pace);
            }
            Ok(())
        })
        .await?;
    Ok(vec![figure, committed])
}

/// The share of a core that this process takes without the watchers themselves, in hundredths, and how many changes a second
/// were committed.
async fn load(bench: &Bench<'_>, watchers: usize) -> Result<(f64, f64), BoxError> {
    let subscriber = Subscriber::start(&bench.world, &bench.owner, "copies").await?;
    subscriber.caught_up(bench.things).await?;
    let (end, (ready, is_ready)) = (CancellationToken::new(), oneshot::channel());
    // A thread that is never told would keep the program from ending.
    let _end = end.clone().drop_guard();
    let (url, ended) = (subscriber.url("nudge/v1/events"), end.clone());
    let watching = spawn_blocking(move || watch(&url, watchers, ready, &ended));
    // If it failed, it says why in the end.
    let _ = is_ready.await;
    let (began, before) = (Instant::now(), cpu_seconds(PROCESS).unwrap_or_default());
    let (last, edition, pace) = bench.change(bench.some(CHANGES)).await?;
    subscriber.has(&last, edition).await?;
    let (taken, elapsed) =
        (cpu_seconds(PROCESS).unwrap_or_default() - before, began.elapsed().as_secs_f64());
    end.cancel();
    let share = (taken - watching.await??) / elapsed * 100.0;
    subscriber.stop(&bench.world).await?;
    Ok((share, pace))
}

/// Watches until the end, on a thread of its own. Returns the processor time that it takes itself.
fn watch(
    url: &str,
    watchers: usize,
    ready: oneshot::Sender<()>,
    end: &CancellationToken,
) -> Result<f64, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut watching = JoinSet::new();
        for _ in 0..watchers {
            let mut events = reqwest::get(url).await?.error_for_status()?.bytes_stream();
            watching.spawn(async move { while events.next().await.is_some() {} });
        }
        let before = cpu_seconds(THREAD).unwrap_or_default();
        let _ = ready.send(());
        end.cancelled().await;
        Ok(cpu_seconds(THREAD).unwrap_or_default() - before)
    })
}
