//! Ports for servers that go away and come back.
//!
//! All are below the ports that systems hand out by themselves (Linux from 32,768 on). A port from there
//! could be taken by any connection while its server is away; and a client that tries again and again to
//! reach it may, one day, get that very port for itself, and find that it answers.
//!
//! Between the look whether a port is free and the start of its server, and whenever that server is away,
//! somebody else could look, too. So each kind of program has a range of its own, in blocks, and whoever
//! takes a block holds the lock of a file, `nudge-ports-` and its first port, in the temporary directory:
//!
//! | from | to | for | in blocks of | held as long as |
//! |---|---|---|---|---|
//! | 12,000 | 17,999 | [`free_port`]: servers in tests | 100 | the test program runs |
//! | 18,000 | 21,999 | `scripts/postgres` | 1 | the script runs |
//! | 22,000 | 25,999 | `nudge chaos` (`crates/nudge/src/chaos/ports.rs`) | 40 | the run lasts |
//! | 26,000 | 29,999 | [`Base`]: a `nudge dev` in tests | 40 | the value lives |

use std::{
    fs::File,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    process,
    sync::Mutex,
};

const OF_SERVERS: Range<u16> = 12_000..18_000;
const BLOCK_OF_SERVERS: u16 = 100;
const OF_DEMOS: Range<u16> = 26_000..30_000;
/// More than the highest offset that `nudge dev` uses.
const BLOCK_OF_DEMOS: u16 = 40;
/// A prime, so that processes that start together look in different places.
const STRIDE: usize = 37;

/// A block of ports that no other process of ours uses while this value lives.
#[derive(Debug)]
struct Block {
    ports: Range<u16>,
    _lock: File,
}

impl Block {
    fn take(range: Range<u16>, size: u16) -> Option<Self> {
        let firsts: Vec<_> = range.step_by(usize::from(size)).collect();
        let start = process::id() as usize * STRIDE;
        let mut order = (0..firsts.len()).map(|n| firsts[(start + n) % firsts.len()]);
        order.find_map(|first| Some(Self { ports: first..first + size, _lock: lock(first)? }))
    }
}

/// Locks a block, unless somebody has.
pub(crate) fn lock(first: u16) -> Option<File> {
    let path = std::env::temp_dir().join(format!("nudge-ports-{first}"));
    // What another user has made can be read, and so locked, too.
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => File::create(&path).ok()?,
        opened => opened.ok()?,
    };
    file.try_lock().ok().map(|()| file)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port that is free now, and that this process gives out no second time.
pub fn free_port() -> u16 {
    static BLOCKS: Mutex<Vec<Block>> = Mutex::new(Vec::new());
    // A test that panicked in here has taken nothing.
    let mut blocks = BLOCKS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    loop {
        let last = blocks.last_mut();
        if let Some(port) = last.and_then(|block| block.ports.find(|port| is_free(*port))) {
            return port;
        }
        blocks.push(Block::take(OF_SERVERS, BLOCK_OF_SERVERS).expect("a block of ports is left"));
    }
}

/// A `--port-base`: all that `nudge dev` adds to it is free now, and nobody else's while this lives.
#[derive(Debug)]
pub struct Base(Block);

impl Base {
    /// Takes one of which the ports at these offsets are free.
    pub fn free(offsets: &[u16]) -> Self {
        let mut taken = Vec::new();
        loop {
            // Those with a port that somebody has stay locked until another is found.
            let block = Block::take(OF_DEMOS, BLOCK_OF_DEMOS).expect("a block of ports is left");
            if offsets.iter().all(|offset| is_free(block.ports.start + offset)) {
                return Self(block);
            }
            taken.push(block);
        }
    }

    /// The base itself.
    pub fn port(&self) -> u16 {
        self.0.ports.start
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_given_out_twice_and_another_block_follows_a_full_one() {
        let ports: Vec<_> = (0..=BLOCK_OF_SERVERS).map(|_| free_port()).collect();
        assert!(ports.iter().all(|port| OF_SERVERS.contains(port)));
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
    }

    #[test]
    fn a_block_is_nobody_elses_until_it_is_given_back() {
        let (one, other) = (Base::free(&[0]), Base::free(&[0]));
        let between = one.port().abs_diff(other.port());
        assert!(between >= BLOCK_OF_DEMOS && between % BLOCK_OF_DEMOS == 0, "{between}");
        let first = one.port();
        assert!(lock(first).is_none() && OF_DEMOS.contains(&first));
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
}
