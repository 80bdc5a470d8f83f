//! A message: its version header and its body.

use nudge_protocol::{Change, EntityId, Notification, Version, notification::parse_version_header};

use crate::plain::{self, Fields};

/// The first line of the input is the value of the version header, the rest is the body.
///
/// - A header is accepted exactly if it has 1 to 16 digits and is below 2^53, and is read as that number. Encoding and
///   decoding again gives the same version.
/// - A body is accepted exactly if a second, plain decoder finds an ID and a kind of change, and is read as these. The
///   ID follows the rules, and encoding and decoding again gives the same notification.
pub fn notification(input: &[u8]) {
    let line = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (first, rest) = input.split_at(line);
    if let Ok(value) = std::str::from_utf8(first) {
        header(value);
    }
    body(rest.strip_prefix(b"\n").unwrap_or(rest));
}

fn header(value: &str) {
    let read = parse_version_header(value).ok();
    assert_eq!(read.map(Version::get), plain::version_text(value.trim()), "{value:?}");
    if let Some(version) = read {
        let written = version.to_string();
        assert_eq!(parse_version_header(&written), Ok(version));
        assert_eq!(written, version.get().to_string());
        assert_eq!(Version::try_from(version.to_i64()), Ok(version));
    }
}

fn body(body: &[u8]) {
    let read = Notification::from_json(body).ok();
    if let Some(read) = &read {
        kept(read);
    }
    // Invalid UTF-8 is allowed in text that is skipped.
    if let Ok(text) = std::str::from_utf8(body) {
        let found = read.as_ref().map(|n| (n.id.to_string(), n.change.as_str().to_owned()));
        assert_eq!(found, plainly(body), "{text}");
    }
}

/// What must hold for every notification.
fn kept(read: &Notification) {
    assert!(plain::id(read.id.as_str()).is_some(), "{read:?}");
    assert_eq!(EntityId::new(read.id.as_str()).as_ref(), Ok(&read.id));
    assert_eq!(Change::parse(read.change.as_str()), Some(read.change));
    let written = read.to_json();
    assert_eq!(Notification::from_json(&written).expect("what was written"), *read);
    let fields = Fields::read(&written).expect("an object");
    assert!(fields.0.len() == 2 && fields.are_among(&["id", "change"]), "{read:?}");
}

fn plainly(body: &[u8]) -> Option<(String, String)> {
    let fields = Fields::read(body)?;
    let id = plain::json_id(fields.once("id")??)?;
    let change = plain::text(fields.once("change")??)?;
    ["created", "updated", "deleted"].contains(&change.as_str()).then_some((id, change))
}
