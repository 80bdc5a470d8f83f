//! How database work is driven: awaited or, in simulations, run while time stands still.

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
    /// Driven to completion at once, with the help of another running runtime, while the calling
    /// thread does nothing else. In a simulation on a paused clock, time stands still while SQL runs: the
    /// database's own thread would otherwise look idle, and tokio would jump ahead in
    /// time. (Blocking on the caller's runtime instead hangs: the pool gets a connection back
    /// through a task of the runtime it was used on.)
    Stepped(Arc<dyn Stepper>),
}

impl Driver {
    /// A transaction has begun. A simulated program may crash here, and then never gets it.
    pub(super) async fn in_transaction(&self) {
        if let Self::Stepped(stepper) = self {
            stepper.in_transaction();
            if stepper.has_crashed() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Awaited => "Awaited",
            Self::Stepped(_) => "Stepped",
        })
    }
}

/// Decides how each unit of database work of a simulated program goes, and where the program crashes.
pub trait Stepper: Send + Sync {
    /// The runtime on which the pool's own tasks run.
    fn runtime(&self) -> &Handle;

    /// How long the program waits for the database; called before and after each unit of work.
    fn pause(&self) -> Duration {
        Duration::ZERO
    }

    /// How long the program freezes from now on.
    fn stands_still(&self) -> Duration {
        Duration::ZERO
    }

    /// Called when a unit of work begins. Until it ends, tokio's clock is the helper's.
    fn begins(&self) {}

    /// Called when a transaction has begun in the unit of work.
    fn in_transaction(&self) {}

    /// Called when a unit of work is over. `done` says whether it completed.
    fn ends(&self, done: bool) {
        let _ = done;
    }

    /// Whether the program has crashed, in one of the calls above or in the work itself. If so, it does
    /// nothing more: an open transaction is rolled back, and the work never returns.
    fn has_crashed(&self) -> bool {
        false
    }
}

impl Stepper for Handle {
    fn runtime(&self) -> &Handle {
        self
    }
}

/// Does a unit of work. Never returns if the program crashes.
pub(super) async fn step<F>(stepper: &dyn Stepper, work: F) -> F::Output
where
    F: Future + Send,
    F::Output: Send,
{
    wait(stepper).await;
    stepper.begins();
    let mut output = None;
    if !stepper.has_crashed() {
        // Tasks that the work spawns go to the helper; the work itself is polled right here.
        let helper = stepper.runtime().enter();
        output = futures_executor::block_on(unless_crashed(stepper, work));
        drop(helper);
    }
    stepper.ends(output.is_some());
    match output {
        Some(output) if !stepper.has_crashed() => {
            wait(stepper).await;
            output
        }
        _ => std::future::pending().await,
    }
}

/// Work without pauses must complete when it is first polled.
async fn wait(stepper: &dyn Stepper) {
    let pause = stepper.pause();
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    loop {
        match stepper.stands_still() {
            Duration::ZERO => return,
            rest => tokio::time::sleep(rest).await,
        }
    }
}

/// The output, unless the program crashes on the way. How often the work waits for the database's thread
/// varies, so nothing may depend on it: a program crashes where it decides to, and then
/// waits forever.
async fn unless_crashed<F: Future>(stepper: &dyn Stepper, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if stepper.has_crashed() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}
