//! Ports for servers that go away and come back.

use std::{
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// Below the ports that systems hand out by themselves. A port from there could be taken by any
/// connection while its server is away; and a client that tries again and again to reach it may, one
/// day, get that very port for itself, and find that it answers.
const FIRST: u32 = 12_000;
const COUNT: u32 = 18_000;
/// A prime, so that processes that start together look in different places.
const STRIDE: u32 = 7_919;

/// A port that is free now, and that this process does not give out again soon.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = process::id().wrapping_mul(STRIDE);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("below 65,536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
