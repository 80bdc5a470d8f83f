//! All texts with a grammar: IDs, names, tokens, subjects, write tokens.

use nudge_protocol::{EntityId, EntityName, InvalidEntityId, WriteToken, subject};

use crate::plain;

/// The input is decoded as each of these texts in turn.
///
/// - It is accepted exactly if a second, plain decoder accepts it, and both find the same.
/// - Each ID has one encoding, which contains nothing special to NATS, paths and headers, and which decodes to that ID.
///   So no two IDs share an encoding. Any other text that decodes to an ID obeys the same rules once it is encoded
///   again.
pub fn subject(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    as_id(&text);
    as_name(&text);
    as_token(&text);
    as_subject(&text);
    as_write_token(&text);
}

fn store() -> EntityName {
    EntityName::new("store").expect("a name")
}

fn as_id(text: &str) {
    let read = EntityId::new(text);
    assert_eq!(read.is_ok(), plain::id(text).is_some(), "{text:?}");
    match read {
        Ok(id) => {
            assert_eq!(id.as_str(), text);
            kept(&id);
        }
        Err(InvalidEntityId::Empty) => assert!(text.is_empty()),
        Err(InvalidEntityId::TooLong(bytes)) => assert!(bytes == text.len() && bytes > 200),
        Err(InvalidEntityId::ControlCharacter) => assert!(text.chars().any(plain::is_control)),
    }
}

/// What must hold for every ID.
fn kept(id: &EntityId) {
    let token = subject::encode_token(id);
    assert_eq!(token, plain::encode(id.as_str()));
    assert!(token.len() <= 600 && token.len() <= 3 * id.as_str().len(), "{token}");
    let harmless = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'%');
    assert!(token.bytes().all(harmless), "{token}");
    assert_eq!(subject::decode_token(&token).as_ref(), Ok(id));
    let written = subject::subject(&store(), id);
    assert_eq!(written.split('.').collect::<Vec<_>>(), ["changes", "store", &token]);
    assert_eq!(subject::decode_subject(&store(), &written).as_ref(), Ok(id));
    let other = EntityName::new("storefront").expect("a name");
    assert!(subject::decode_subject(&other, &written).is_err());
    let json = serde_json::to_string(id).expect("text");
    assert_eq!(serde_json::from_str::<EntityId>(&json).expect("what was written"), *id);
}

fn as_name(text: &str) {
    let read = EntityName::new(text).ok();
    assert_eq!(read.as_ref().map(EntityName::as_str), plain::name(text), "{text:?}");
    if let Some(name) = read {
        assert_eq!(subject::stream_name(&name), format!("CHANGES_{text}"));
        assert_eq!(subject::all_subjects(&name), format!("changes.{text}.*"));
        let id = EntityId::new(text).expect("every name could be an id");
        assert_eq!(subject::encode_token(&id), text);
        let subject = subject::subject(&name, &id);
        assert_eq!(subject::decode_subject(&name, &subject), Ok(id));
    }
}

fn as_token(text: &str) {
    let read = subject::decode_token(text).ok();
    assert_eq!(read.as_ref().map(ToString::to_string), plain::decode(text), "{text:?}");
    if let Some(id) = read {
        kept(&id);
    }
}

fn as_subject(text: &str) {
    let read = subject::decode_subject(&store(), text).ok();
    let plainly = text.strip_prefix("changes.store.").and_then(plain::decode);
    assert_eq!(read.as_ref().map(ToString::to_string), plainly, "{text:?}");
    // After the right prefix, every token makes a subject.
    let subject = format!("changes.store.{text}");
    assert_eq!(subject::decode_subject(&store(), &subject), subject::decode_token(text));
}

fn as_write_token(text: &str) {
    let read = text.parse::<WriteToken>().ok();
    let parts = read.as_ref().map(|t| (t.entity.to_string(), t.id.to_string(), t.version.get()));
    assert_eq!(parts, plain_write_token(text), "{text:?}");
    if let Some(token) = read {
        let written = token.to_string();
        // It fits into a header, and into a list separated by commas.
        assert!(written.bytes().all(|b| b.is_ascii_graphic() && b != b','), "{written}");
        assert_eq!(written.parse().as_ref(), Ok(&token));
        assert_eq!(written.matches(['/', '@']).collect::<String>(), "/@");
    }
}

fn plain_write_token(text: &str) -> Option<(String, String, u64)> {
    let (name, at) = (text.find('/')?, text.rfind('@')?);
    let id = text.get(name + 1..at).and_then(plain::decode)?;
    Some((plain::name(&text[..name])?.to_owned(), id, plain::version_text(&text[at + 1..])?))
}
