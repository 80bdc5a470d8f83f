//! Signals to a test's own children.

use std::process::Child;

pub use rustix::process::Signal;
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process, waitid};

/// Sends a signal. The child must not have been waited for, so that its pid is still its own.
pub fn send(child: &Child, signal: Signal) {
    kill_process(pid(child), signal).expect("a child of our own takes signals");
}

/// Makes the child stand still, and returns once every thread of it does.
pub fn freeze(child: &Child) {
    send(child, Signal::STOP);
    let stopped = waitid(WaitId::Pid(pid(child)), WaitIdOptions::STOPPED);
    stopped.expect("it stands still");
}

/// Lets it go on.
pub fn thaw(child: &Child) {
    send(child, Signal::CONT);
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}
