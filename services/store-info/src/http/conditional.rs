//! `If-Match` and `If-None-Match` (RFC 9110, section 13).

use axum::http::{HeaderMap, HeaderName, header};

use nudge_protocol::Version;

use crate::domain::{Condition, Expected};

/// What a write is conditional on.
pub(super) fn condition(headers: &HeaderMap) -> Condition {
    Condition {
        only_if: if_match(headers),
        unless: if_none_match(headers),
    }
}

/// `If-Match` compares strongly: a weak tag never matches.
fn if_match(headers: &HeaderMap) -> Option<Expected> {
    expected(headers, header::IF_MATCH, false)
}

/// `If-None-Match` compares weakly: a weak tag matches as well.
pub(super) fn if_none_match(headers: &HeaderMap) -> Option<Expected> {
    expected(headers, header::IF_NONE_MATCH, true)
}

/// The versions that a header names. A tag that this service never made names none, and so does
/// anything malformed: a condition that cannot be understood must not let a write through.
fn expected(headers: &HeaderMap, name: HeaderName, weak: bool) -> Option<Expected> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    let mut versions = Vec::new();
    for value in values {
        let Ok(value) = value.to_str() else { continue };
        if value.trim() == "*" {
            return Some(Expected::Any);
        }
        // Tags of this service hold digits only, so a comma inside a foreign tag does no harm.
        for tag in value.split(',').map(str::trim) {
            let tag = match tag.strip_prefix("W/") {
                Some(tag) if weak => tag,
                Some(_) => continue,
                None => tag,
            };
            let digits = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            versions.extend(digits.and_then(|digits| digits.parse::<Version>().ok()));
        }
    }
    Some(Expected::OneOf(versions))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&str]) -> Condition {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_MATCH, value.parse().unwrap());
            headers.append(header::IF_NONE_MATCH, value.parse().unwrap());
        }
        condition(&headers)
    }

    fn one_of(versions: &[u64]) -> Option<Expected> {
        let versions = versions.iter().map(|n| Version::new(*n).unwrap());
        Some(Expected::OneOf(versions.collect()))
    }

    #[test]
    fn tags_are_read_from_lists_and_repeated_headers() {
        let condition = parse(&["\"1\", W/\"2\"", "\"x\",\"3\""]);
        assert_eq!(condition.only_if, one_of(&[1, 3]));
        assert_eq!(condition.unless, one_of(&[1, 2, 3]));
        assert_eq!(parse(&["*"]).only_if, Some(Expected::Any));
        assert_eq!(parse(&[]), Condition::default());
    }

    #[test]
    fn what_is_not_a_tag_of_ours_matches_nothing_rather_than_everything() {
        for value in [
            "", "1", "\"1", "'1'", "\"a,\"", "nonsense", "\"\"", "\"-1\"", "w/\"1\"", "\"*\"",
        ] {
            assert_eq!(parse(&[value]).only_if, one_of(&[]), "{value}");
        }
    }
}
