//! Tokens that were not good, by the addresses that they came from: checking a signature costs more than many a request, and
//! anybody can send one. An address that has sent too many is refused before its next token is looked at, unless that is one
//! which was found good before. So whoever shares its address goes on.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Instant,
};

use parking_lot::Mutex;

use crate::serve::rates::Rates;

/// Bad tokens a second of one address.
const MAX_BAD_TOKENS_A_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// The same behind a proxy, whose address is that of everybody. It costs a tenth of a core; who sends them is the proxy's to
/// tell apart.
const MAX_BAD_TOKENS_A_SECOND_BEHIND_PROXY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
/// The part of an IPv6 address that one client has as a whole.
const IPV6_NETWORK: u128 = !0 << 64;

#[derive(Debug)]
pub(super) struct Strangers(Mutex<Rates<IpAddr>>);

impl Strangers {
    pub(super) fn new(behind_proxy: bool) -> Self {
        Self(Mutex::new(Rates::of(match behind_proxy {
            true => MAX_BAD_TOKENS_A_SECOND_BEHIND_PROXY,
            false => MAX_BAD_TOKENS_A_SECOND,
        })))
    }

    /// Whether a token that comes from there is looked at.
    pub(super) fn may_try(&self, from: IpAddr) -> bool {
        self.0.lock().has_left(&network(from), Instant::now())
    }

    /// One from there was not good.
    pub(super) fn failed(&self, from: IpAddr) {
        self.0.lock().spend(&network(from), Instant::now());
    }
}

/// What of an address tells clients apart.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_many_addresses_has_one_rate() {
        for (one, other, same) in [
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("::1", "127.0.0.1", false),
        ] {
            let [one, other] = [one, other].map(|address| network(address.parse().unwrap()));
            assert_eq!(one == other, same, "{one} {other}");
        }
    }
}
