//! `If-Match` and `If-None-Match` (RFC 9110, section 13) over versions. Pure.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use nudge_protocol::Version;
use nudge_runtime::Problem;

/// The tag of a version: `"17"`.
pub fn etag(version: Version) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).expect("digits in quotes are a header value")
}

/// What a conditional header names: `*`, or entity tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// Any state that exists.
    Any,
    /// These states.
    Listed(Vec<Tag>),
}

/// One entity tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    weak: bool,
    opaque: String,
}

impl Tags {
    /// Reads `If-Match`; 400 when it is there and is not one.
    pub fn if_match(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        Self::read(headers, &header::IF_MATCH)
    }

    /// Reads `If-None-Match`; 400 when it is there and is not one.
    pub fn if_none_match(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        Self::read(headers, &header::IF_NONE_MATCH)
    }

    fn read(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>, Problem> {
        let mut tags = Vec::new();
        let mut given = false;
        for value in headers.get_all(name) {
            given = true;
            let wrong = || {
                let detail = "must be * or entity tags such as \"17\"";
                Problem::field(name.as_str(), detail).with_status(StatusCode::BAD_REQUEST)
            };
            let value = value.to_str().map_err(|_| wrong())?;
            if value.trim() == "*" {
                return Ok(Some(Self::Any));
            }
            tags.extend(listed(value).ok_or_else(wrong)?);
        }
        Ok(given.then_some(Self::Listed(tags)))
    }

    /// Whether they name this version, byte by byte: what a write needs.
    pub fn match_strongly(&self, version: Version) -> bool {
        self.names(version, |tag| !tag.weak)
    }

    /// Whether they name this version or one just as good: what a read needs.
    pub fn match_weakly(&self, version: Version) -> bool {
        self.names(version, |_| true)
    }

    fn names(&self, version: Version, allowed: impl Fn(&Tag) -> bool) -> bool {
        let version = version.to_string();
        match self {
            Self::Any => true,
            Self::Listed(tags) => tags.iter().any(|tag| allowed(tag) && tag.opaque == version),
        }
    }
}

/// The tags of a list such as `"1", W/"2"`; nothing when it is not one.
fn listed(value: &str) -> Option<Vec<Tag>> {
    let mut tags = Vec::new();
    let mut rest = value.trim();
    while !rest.is_empty() {
        let (weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let (opaque, after) = quoted.strip_prefix('"')?.split_once('"')?;
        tags.push(Tag {
            weak,
            opaque: opaque.to_owned(),
        });
        let after = after.trim_start();
        // Empty elements between commas are allowed; something other than a comma is not.
        rest = after.trim_start_matches([',', ' ', '\t']);
        if !after.is_empty() && !after.starts_with(',') {
            return None;
        }
    }
    (!tags.is_empty()).then_some(tags)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&str]) -> Result<Option<Tags>, u16> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_MATCH, value.parse().unwrap());
        }
        Tags::if_match(&headers).map_err(|problem| {
            assert_eq!(problem.errors[0].field, "if-match");
            problem.status.as_u16()
        })
    }

    fn version(number: u64) -> Version {
        Version::new(number).unwrap()
    }

    #[test]
    fn a_tag_matches_its_own_version_and_no_other() {
        let tags = read(&[r#""17""#]).unwrap().unwrap();
        assert!(tags.match_strongly(version(17)) && !tags.match_strongly(version(1)));
        assert!(!tags.match_strongly(version(170)));
        assert_eq!(etag(version(17)), r#""17""#);
    }

    #[test]
    fn lists_may_span_headers_and_a_star_is_all() {
        let tags = read(&[r#""1" ,, "2""#, r#""a,b","#]).unwrap().unwrap();
        assert!(tags.match_strongly(version(1)) && tags.match_strongly(version(2)));
        assert!(!tags.match_strongly(version(3)));
        assert!(read(&["*"]).unwrap().unwrap().match_strongly(version(9)));
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn a_weak_tag_is_good_enough_for_a_read_and_not_for_a_write() {
        let tags = read(&[r#"W/"17""#]).unwrap().unwrap();
        assert!(tags.match_weakly(version(17)) && !tags.match_strongly(version(17)));
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        for value in [
            "17",
            "\"17",
            "17\"",
            "\"1\" \"2\"",
            "\"1\"x",
            "",
            "w/\"1\"",
            "*, \"1\"",
        ] {
            assert_eq!(read(&[value]), Err(400), "{value}");
        }
    }

    proptest! {
        #[test]
        fn reading_any_text_never_panics(text in "[ -~]{0,40}") {
            let _ = listed(&text);
        }

        #[test]
        fn every_version_matches_its_own_tag(number in 0u64..(1 << 53)) {
            let tags = read(&[etag(version(number)).to_str().unwrap()]).unwrap().unwrap();
            prop_assert!(tags.match_strongly(version(number)));
        }
    }
}
