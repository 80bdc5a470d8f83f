//! What a program takes of the machine, as Linux counts it.

use std::fs;

/// What Linux counts a process's time in, in all its builds.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has taken so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// On a processor.
    pub(crate) cpu_seconds: f64,
    /// The most memory that it had at a time, in megabytes.
    pub(crate) peak_mb: f64,
}

impl Usage {
    /// Of this process; `None` if there is none, or where Linux's way to ask is not known.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let cpu_seconds = cpu_seconds(&format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kilobytes: f64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Self { cpu_seconds, peak_mb: kilobytes * 1.024 / 1_000.0 })
    }
}

/// The time that a process or a thread has spent on a processor: of a file such as `/proc/self/stat`.
pub(crate) fn cpu_seconds(path: &str) -> Option<f64> {
    let stat = fs::read_to_string(path).ok()?;
    // The name of the program, in brackets, may hold anything.
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}
