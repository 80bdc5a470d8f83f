//! Reads a message: it yields a floor for the answer to its callback, and nothing that could skip one.

use nudge_protocol::{
    EntityId, Notification, Timestamp, Version,
    notification::{VERSION_HEADER, parse_version_header},
};

use super::source::Delivery;

/// The version that a message names, unless it is too far in the future, and what is wrong with the message, if
/// anything.
pub(super) fn read(
    message: &Delivery,
    id: &EntityId,
    now: Timestamp,
) -> (Option<Version>, Option<String>) {
    let highest = Version::highest_believed(now);
    let version = message.version.as_deref().map(|text| match parse_version_header(text) {
        Ok(version) if version > highest => Err(format!("{version} is too far ahead of the clock")),
        read => read.map_err(|error| error.to_string()),
    });
    let version_fault = match &version {
        Some(Err(error)) => Some(format!("{VERSION_HEADER}: {error}")),
        _ => None,
    };
    let body_fault = match Notification::from_json(&message.body) {
        Ok(body) if body.id == *id => None,
        Ok(body) => Some(format!("the body names {:?}", body.id)),
        Err(error) => Some(format!("the body cannot be read: {error}")),
    };
    (version.and_then(Result::ok), version_fault.or(body_fault))
}
