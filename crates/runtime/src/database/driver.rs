//! How database work is driven: awaited, or, in simulations, while the world stands still.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::runtime::Handle;

/// How database futures are driven.
#[derive(Clone, Default)]
pub enum Driver {
    /// Awaited, like any other future.
    #[default]
    Awaited,
    /// Driven to completion at once, with another, running runtime at hand, while the calling
    /// thread does nothing else. In a simulation on a paused clock the world stands still while SQL runs: the
    /// database's own thread would otherwise look like idleness, and tokio would jump ahead in
    /// time. (Blocking on the caller's runtime instead hangs: the pool gets a connection back
    /// through a task of the runtime it was used on.)
    Stepped(Arc<dyn Stepper>),
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Awaited => "Awaited",
            Self::Stepped(_) => "Stepped",
        })
    }
}

/// Says how each unit of database work of a simulated program goes.
pub trait Stepper: Send + Sync {
    /// The runtime on which the pool's own tasks run.
    fn runtime(&self) -> &Handle;

    /// How long the program waits for the database, asked before and after each unit of work.
    fn pause(&self) -> Duration {
        Duration::ZERO
    }

    /// What is to happen to the next unit of work.
    fn next(&self) -> Fate {
        Fate::Done
    }

    /// Called when a unit of work is over. In between, tokio's clock is the helper's.
    fn over(&self) {}

    /// Called when the program has crashed in the course of a unit of work.
    fn crashed(&self) {}
}

impl Stepper for Handle {
    fn runtime(&self) -> &Handle {
        self
    }
}

/// How a unit of database work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As it ends by itself.
    Done,
    /// The program crashes before it begins.
    CrashBefore,
    /// The program crashes when the work has waited so many times for the database: a transaction
    /// that is open then is rolled back.
    CrashDuring(u32),
    /// The program crashes as soon as it is over.
    CrashAfter,
}

/// Does a unit of work. Never returns when the program crashes.
pub(super) async fn step<F>(stepper: &dyn Stepper, work: F) -> F::Output
where
    F: Future + Send,
    F::Output: Send,
{
    wait(stepper.pause()).await;
    let fate = stepper.next();
    let mut output = None;
    if fate != Fate::CrashBefore {
        let most_waits = if let Fate::CrashDuring(waits) = fate { waits } else { u32::MAX };
        // Whatever the work spawns goes to the helper; the work itself is polled right here.
        let helper = stepper.runtime().enter();
        output = futures_executor::block_on(at_most(most_waits, work));
        drop(helper);
        stepper.over();
    }
    match (fate, output) {
        (Fate::Done, Some(output)) => {
            wait(stepper.pause()).await;
            output
        }
        _ => {
            stepper.crashed();
            std::future::pending().await
        }
    }
}

/// Work that meets no pause must be over when it is first polled.
async fn wait(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

/// The output, unless the future has to wait more often than that.
async fn at_most<F: Future>(most_waits: u32, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut waits = 0;
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if waits >= most_waits => Poll::Ready(None),
        Poll::Pending => {
            waits += 1;
            Poll::Pending
        }
    })
    .await
}
