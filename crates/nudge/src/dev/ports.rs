//! The demo's ports: whether they are free.

use std::net::{Ipv4Addr, TcpListener};

use crate::{
    client::{NATS_PORT_OFFSET, Service},
    failure::Failure,
};

/// The ports in use from `base` on, and for what.
pub(super) fn all(base: u16) -> Vec<(u16, &'static str)> {
    let services = Service::ALL.map(|service| (service.port(base), service.name()));
    let mut ports = vec![(base, "console")];
    ports.extend(services);
    ports.push((nats(base), "NATS"));
    ports
}

/// The port of NATS.
pub(super) const fn nats(base: u16) -> u16 {
    base + NATS_PORT_OFFSET
}

/// A failure that names every unavailable port, and the setting that moves them.
pub(super) fn check_free(base: u16) -> Result<(), Failure> {
    let refused = |(port, what): (u16, &str)| {
        let error = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).err()?;
        let why = match error.kind() {
            std::io::ErrorKind::AddrInUse => "is already in use".to_owned(),
            _ => format!("cannot be used ({error})"),
        };
        Some(format!("port {port} ({what}) {why}"))
    };
    let refused: Vec<_> = all(base).into_iter().filter_map(refused).collect();
    match refused.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(format!(
            "{}: stop what uses it, or move all ports with --port-base (NUDGE_PORT_BASE)",
            refused.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_are_those_of_the_contract() {
        let ports: Vec<_> = all(7100).into_iter().map(|(port, _)| port).collect();
        assert_eq!(ports, [7100, 7101, 7102, 7103, 7104, 7105, 7106, 7122]);
    }

    #[test]
    fn a_taken_port_is_named_with_its_purpose_and_the_setting() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let line = check_free(port - 2).unwrap_err().to_string();
        assert!(line.contains(&format!("port {port} (search) is already in use")), "{line}");
        assert!(line.contains("--port-base"), "{line}");
    }
}
