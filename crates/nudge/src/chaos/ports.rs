//! Ports of this run alone.

use std::{
    fs::File,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

use crate::failure::Failure;

/// Below the ports that systems hand out by themselves: one from there could be taken by any connection
/// while its program is away. The tests' servers have ranges of their own, see
/// `tests/servers/src/port.rs`.
const RANGE: Range<u16> = 22_000..26_000;
/// Ports of one run. More than it needs: some may be taken by others.
const BLOCK: u16 = 40;
/// A prime, so that runs that begin together look in different places.
const STRIDE: usize = 37;

/// A block of ports that no other run looks at while this value lives: between the look whether one is
/// free and the start of its program, and whenever that program is away, nobody has it but us.
#[derive(Debug)]
pub(super) struct Ports {
    left: Range<u16>,
    _lock: File,
}

impl Ports {
    /// Takes a block.
    pub(super) fn take() -> Result<Self, Failure> {
        let blocks: Vec<_> = RANGE.step_by(usize::from(BLOCK)).collect();
        let first = std::process::id() as usize * STRIDE;
        let order = (0..blocks.len()).map(|n| blocks[(first + n) % blocks.len()]);
        let lock = |begin: u16| Some(Self { left: begin..begin + BLOCK, _lock: lock(begin)? });
        order.into_iter().find_map(lock).ok_or_else(|| Failure::failed("no ports are free"))
    }

    /// One that is free now.
    pub(super) fn next(&mut self) -> Result<u16, Failure> {
        let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        self.left.find(free).ok_or_else(|| Failure::failed("too few ports are free"))
    }
}

/// Locks a block by its file, unless somebody has.
fn lock(begin: u16) -> Option<File> {
    let path = std::env::temp_dir().join(format!("nudge-ports-{begin}"));
    // Of another user it can be read and so locked, too.
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => File::create(&path).ok()?,
        opened => opened.ok()?,
    };
    file.try_lock().ok().map(|()| file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_have_no_port_in_common_and_what_is_given_back_can_be_had_again() {
        let (mut one, mut other) = (Ports::take().unwrap(), Ports::take().unwrap());
        assert!(one.left.end <= other.left.start || other.left.end <= one.left.start);
        let begin = one.left.start;
        assert!(lock(begin).is_none());
        let (a, b, c) = (one.next().unwrap(), one.next().unwrap(), other.next().unwrap());
        assert!(a < b && RANGE.contains(&a) && RANGE.contains(&c));
        drop(one);
        assert!(lock(begin).is_some());
    }

    #[test]
    fn a_port_that_is_taken_is_left_out() {
        let mut ports = Ports::take().unwrap();
        let port = ports.next().unwrap();
        ports.left.start = port;
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(ports.next().unwrap() > port);
    }
}
