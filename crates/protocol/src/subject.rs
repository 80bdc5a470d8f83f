//! How an entity becomes a NATS subject, and back.
//!
//! Stream `CHANGES_<entity>`, subject `changes.<entity>.<token>`. The token is the ID with
//! everything outside `[A-Za-z0-9_-]` percent-encoded, so that no ID can reach outside its own
//! subject (`.`, `*`, `>` and space mean something to NATS).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::{EntityId, EntityName, InvalidEntityId};

pub(crate) const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');

/// First part of every subject.
pub const SUBJECT_PREFIX: &str = "changes";

/// The name of an entity's stream.
pub fn stream_name(entity: &EntityName) -> String {
    format!("CHANGES_{entity}")
}

/// The wildcard that covers every subject of an entity.
pub fn all_subjects(entity: &EntityName) -> String {
    format!("{SUBJECT_PREFIX}.{entity}.*")
}

/// The subject of one entity.
///
/// ```
/// use nudge_protocol::{EntityId, EntityName, subject};
/// let (store, id) = (EntityName::new("store").unwrap(), EntityId::new("a.b").unwrap());
/// assert_eq!(subject::subject(&store, &id), "changes.store.a%2Eb");
/// ```
pub fn subject(entity: &EntityName, id: &EntityId) -> String {
    format!("{SUBJECT_PREFIX}.{entity}.{}", encode_token(id))
}

/// The ID as a token: safe in a subject, a path segment and a header value.
pub fn encode_token(id: &EntityId) -> String {
    utf8_percent_encode(id.as_str(), ENCODED).to_string()
}

/// Most read models of one service that follow one entity at a time: an original and its copies.
pub const MAX_READ_MODELS: usize = 4;
/// Most consumers with which one service rereads one stream at a time.
pub const MAX_READERS: usize = 4;

/// The names that the durable consumers of a service may have. Each of its read models takes one of them. They contain
/// nothing that is known only at run time, because a permission at NATS covers a whole token of a subject or nothing of
/// it.
///
/// ```
/// use nudge_protocol::{EntityName, subject::consumer_names};
/// let store = EntityName::new("store").unwrap();
/// let names: Vec<_> = consumer_names("search", &store).collect();
/// assert_eq!(names, ["search-store", "search-store-2", "search-store-3", "search-store-4"]);
/// ```
pub fn consumer_names(service: &str, entity: &EntityName) -> impl Iterator<Item = String> + use<> {
    let first = format!("{service}-{entity}");
    (1..=MAX_READ_MODELS).map(move |number| match number {
        1 => first.clone(),
        number => format!("{first}-{number}"),
    })
}

/// The name that releases before the names of [`consumer_names`] gave to the durable consumer of a read model.
pub fn former_consumer_name(service: &str, entity: &EntityName, read_model: &str) -> String {
    format!("{service}-{entity}-{read_model}")
}

/// The names of temporary consumers that reread a stream, for whoever `reader` is.
pub fn reading_names(reader: &str) -> impl Iterator<Item = String> + use<> {
    let reader = reader.to_owned();
    (1..=MAX_READERS).map(move |number| format!("{reader}-reading-{number}"))
}

/// The service that a consumer of an entity's stream belongs to; `None` if its name is neither one of
/// [`consumer_names`] nor a [`former_consumer_name`].
///
/// ```
/// use nudge_protocol::{EntityName, subject::consumer_service};
/// let store = EntityName::new("store").unwrap();
/// assert_eq!(consumer_service("my-search-store", &store), Some("my-search"));
/// assert_eq!(consumer_service("my-search-store-2", &store), Some("my-search"));
/// assert_eq!(consumer_service("nats-cli-42", &store), None);
/// ```
pub fn consumer_service<'a>(consumer: &'a str, entity: &EntityName) -> Option<&'a str> {
    let service = |named: &'a str| named.strip_suffix(entity.as_str())?.strip_suffix('-');
    let numbered = || consumer.rsplit_once('-').and_then(|(named, _)| service(named));
    service(consumer).or_else(numbered).filter(|service| !service.is_empty())
}

/// Why a subject or token names no entity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubject {
    /// The subject is not `changes.<entity>.<token>`.
    #[error("the subject is not of the form {SUBJECT_PREFIX}.<entity>.<token>")]
    Form,
    /// The token does not decode to UTF-8.
    #[error("the token does not decode to UTF-8")]
    Encoding,
    /// The decoded token is not a valid ID.
    #[error("the token does not decode to a valid ID")]
    Id(#[from] InvalidEntityId),
}

/// The ID that a token stands for. Accepts any percent-encoding of it, not only the one that
/// [`encode_token`] writes, because a foreign publisher may encode more or less.
pub fn decode_token(token: &str) -> Result<EntityId, InvalidSubject> {
    let id = percent_decode_str(token).decode_utf8().map_err(|_| InvalidSubject::Encoding)?;
    Ok(EntityId::new(&id)?)
}

/// The ID that a message's subject names, for a subscriber of `entity`.
pub fn decode_subject(entity: &EntityName, subject: &str) -> Result<EntityId, InvalidSubject> {
    let mut parts = subject.splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(SUBJECT_PREFIX), Some(name), Some(token)) if name == entity.as_str() => {
            decode_token(token)
        }
        _ => Err(InvalidSubject::Form),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn store() -> EntityName {
        EntityName::new("store").unwrap()
    }

    #[test]
    fn an_entity_has_one_stream_and_one_wildcard() {
        assert_eq!(stream_name(&store()), "CHANGES_store");
        assert_eq!(all_subjects(&store()), "changes.store.*");
    }

    #[test]
    fn ids_that_mean_something_to_nats_stay_inside_their_token() {
        let long = "가".repeat(66);
        for id in [".", "*", ">", "a b", "a.b", "a/b", "%", "%2E", "강남점", "-_", long.as_str()]
        {
            let id = EntityId::new(id).unwrap();
            let subject = subject(&store(), &id);
            assert_eq!(subject.split('.').count(), 3, "{subject}");
            assert!(!subject.contains(['*', '>', ' ', '/']), "{subject}");
            assert_eq!(decode_subject(&store(), &subject), Ok(id));
        }
    }

    #[test]
    fn subjects_of_others_and_broken_tokens_are_told_apart() {
        let decode = |s: &str| decode_subject(&store(), s);
        assert_eq!(decode("changes.review.1"), Err(InvalidSubject::Form));
        assert_eq!(decode("changes.store"), Err(InvalidSubject::Form));
        assert_eq!(decode("other.store.1"), Err(InvalidSubject::Form));
        assert_eq!(decode("changes.store.%FF"), Err(InvalidSubject::Encoding));
        assert_eq!(decode("changes.store.%00"), Err(InvalidEntityId::ControlCharacter.into()));
    }

    #[test]
    fn a_token_encoded_more_than_needed_names_the_same_entity() {
        assert_eq!(decode_token("%61%62").unwrap().as_str(), "ab");
    }

    proptest! {
        #[test]
        fn every_id_survives_the_way_through_a_subject(text in "\\PC{1,66}") {
            if let Ok(id) = EntityId::new(&text) {
                let subject = subject(&store(), &id);
                prop_assert!(subject.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert_eq!(decode_subject(&store(), &subject), Ok(id));
            }
        }

        #[test]
        fn different_ids_never_share_a_subject(a in "\\PC{1,20}", b in "\\PC{1,20}") {
            if let (Ok(a), Ok(b)) = (EntityId::new(&a), EntityId::new(&b)) {
                prop_assert_eq!(a == b, encode_token(&a) == encode_token(&b));
            }
        }

        #[test]
        fn a_consumer_belongs_to_the_service_that_named_it(
            service in "[a-z][a-z0-9_-]{0,9}",
            entity in "[a-z][a-z0-9_]{0,9}",
            read_model in "[0-9a-f]{8}",
        ) {
            let entity = EntityName::new(&entity).unwrap();
            let former = former_consumer_name(&service, &entity, &read_model);
            for name in consumer_names(&service, &entity).chain([former]) {
                prop_assert_eq!(consumer_service(&name, &entity), Some(service.as_str()));
            }
        }

        #[test]
        fn decoding_never_panics(text in "\\PC{0,80}") {
            let _ = decode_subject(&store(), &text);
        }
    }
}
