//! Ports for servers that go away and come back.
//!
//! All are below the ephemeral ports that systems assign (Linux from 32,768 on). A port from there
//! could be taken by any connection while its server is away; and a client that keeps trying to
//! reach it may one day be assigned that very port, and connect to itself.
//!
//! Between checking that a port is free and starting its server, and whenever that server is away,
//! somebody else could take the port. So each kind of program has its own range, in blocks, and whoever
//! takes a block holds the lock of a file, `nudge-ports-` and its first port, in the temporary directory:
//!
//! | from | to | for | in blocks of | held as long as |
//! |---|---|---|---|---|
//! | 12,000 | 17,999 | [`free_port`]: servers in tests | 100 | the test program runs |
//! | 18,000 | 21,999 | `scripts/postgres` | 1 | the script runs |
//! | 22,000 | 25,999 | [`Ports::of_a_run`]: `nudge chaos` | 40 | the run lasts |
//! | 26,000 | 29,999 | [`Base`]: a `nudge dev` in tests | 40 | the value lives |

use std::{
    fs::File,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    process,
};

use parking_lot::Mutex;

const OF_SERVERS: Area = Area { ports: 12_000..18_000, block: 100 };
/// A run needs fewer, but some may be taken by others.
const OF_RUNS: Area = Area { ports: 22_000..26_000, block: 40 };
/// More than the highest offset that `nudge dev` uses.
const OF_DEMOS: Area = Area { ports: 26_000..30_000, block: 40 };
/// A prime, so that processes that start together look in different places.
const STRIDE: usize = 37;

/// Ports of one kind of program.
struct Area {
    ports: Range<u16>,
    /// Ports in one block.
    block: u16,
}

/// A block of ports that no other process of ours uses while this value lives.
#[derive(Debug)]
pub struct Ports {
    left: Range<u16>,
    _lock: File,
}

impl Ports {
    /// Ports for a run of `nudge chaos`. `None` if all are taken.
    pub fn of_a_run() -> Option<Self> {
        Self::take(OF_RUNS)
    }

    /// A port that is free now, and is not returned again. `None` if none is left.
    pub fn next_free(&mut self) -> Option<u16> {
        self.left.find(|port| is_free(*port))
    }

    fn take(area: Area) -> Option<Self> {
        let firsts: Vec<_> = area.ports.step_by(usize::from(area.block)).collect();
        let start = process::id() as usize * STRIDE;
        let mut order = (0..firsts.len()).map(|n| firsts[(start + n) % firsts.len()]);
        let block = |first| Some(Self { left: first..first + area.block, _lock: lock(first)? });
        order.find_map(block)
    }
}

/// Locks a block, unless somebody has already.
pub(crate) fn lock(first: u16) -> Option<File> {
    let path = std::env::temp_dir().join(format!("nudge-ports-{first}"));
    // Another user's file can be read, and so locked, too.
    let file = match File::open(&path) {
        // Not through a link that somebody placed there.
        Err(error) if error.kind() == ErrorKind::NotFound => File::create_new(&path).ok()?,
        opened => opened.ok()?,
    };
    file.try_lock().ok().map(|()| file)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// For tests: a port that is free now, and that this process does not return again.
///
/// # Panics
///
/// If all are taken.
pub fn free_port() -> u16 {
    static BLOCKS: Mutex<Vec<Ports>> = Mutex::new(Vec::new());
    let mut blocks = BLOCKS.lock();
    loop {
        if let Some(port) = blocks.last_mut().and_then(Ports::next_free) {
            return port;
        }
        blocks.push(Ports::take(OF_SERVERS).expect("a block of ports is left"));
    }
}

/// For tests, a `--port-base`: all that `nudge dev` adds to it is free now, and nobody else's while this
/// lives.
#[derive(Debug)]
pub struct Base(Ports);

impl Base {
    /// Takes one of which the ports at these offsets are free.
    ///
    /// # Panics
    ///
    /// If all are taken.
    pub fn free(offsets: &[u16]) -> Self {
        let mut taken = Vec::new();
        loop {
            // Those with a port that somebody has stay locked until another is found.
            let block = Ports::take(OF_DEMOS).expect("a block of ports is left");
            if offsets.iter().all(|offset| is_free(block.left.start + offset)) {
                return Self(block);
            }
            taken.push(block);
        }
    }

    /// The base itself.
    pub fn port(&self) -> u16 {
        self.0.left.start
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_given_out_twice_and_another_block_follows_a_full_one() {
        let ports: Vec<_> = (0..=OF_SERVERS.block).map(|_| free_port()).collect();
        assert!(ports.iter().all(|port| OF_SERVERS.ports.contains(port)));
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
    }

    #[test]
    fn a_block_is_nobody_elses_until_it_is_given_back() {
        let (one, other) = (Base::free(&[0]), Base::free(&[0]));
        let between = one.port().abs_diff(other.port());
        assert!(between >= OF_DEMOS.block && between % OF_DEMOS.block == 0, "{between}");
        let first = one.port();
        assert!(lock(first).is_none() && OF_DEMOS.ports.contains(&first));
        drop(one);
        assert!(lock(first).is_some());
    }

    #[test]
    fn a_block_with_a_port_that_is_taken_is_left_out() {
        let one = Base::free(&[0, 7]);
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, one.port() + 7)).unwrap();
        let first = one.port();
        drop(one);
        assert_ne!(Base::free(&[0, 7]).port(), first);
    }

    #[test]
    fn two_runs_have_no_port_in_common_and_what_is_given_back_can_be_had_again() {
        let (mut one, mut other) = (Ports::of_a_run().unwrap(), Ports::of_a_run().unwrap());
        assert!(one.left.end <= other.left.start || other.left.end <= one.left.start);
        let begin = one.left.start;
        assert!(lock(begin).is_none());
        let (a, b) = (one.next_free().unwrap(), one.next_free().unwrap());
        let c = other.next_free().unwrap();
        assert!(a < b && OF_RUNS.ports.contains(&a) && OF_RUNS.ports.contains(&c));
        drop(one);
        assert!(lock(begin).is_some());
    }

    #[test]
    fn a_port_that_is_taken_is_left_out() {
        let mut ports = Ports::of_a_run().unwrap();
        let port = ports.next_free().unwrap();
        ports.left.start = port;
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(ports.next_free().unwrap() > port);
    }
}
