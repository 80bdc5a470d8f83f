//! What a verified token says.

use axum::http::Method;
use nudge_protocol::Timestamp;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::Value;

use super::policy::Scope;

/// The claims that are read.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    sub: Option<String>,
    /// Words with spaces between them (RFC 8693).
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    nudge_only: Option<Vec<String>>,
    /// What it is, is checked elsewhere. It decides how long the token may be remembered.
    #[serde(default)]
    exp: Value,
}

/// Who calls, and what it may do. The handlers of a request find it among its extensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// The token's `sub`; empty if it has none.
    pub subject: String,
    scopes: Vec<Scope>,
    /// The token's `nudge_only`, each as the segments of a path: all that it may change.
    only: Option<Vec<Vec<String>>>,
    /// When its token expires, in seconds since 1970.
    pub(super) expires: f64,
}

impl From<Claims> for Caller {
    fn from(claims: Claims) -> Self {
        let scope = claims.scope.unwrap_or_default();
        let only = claims.nudge_only;
        Self {
            subject: claims.sub.unwrap_or_default(),
            scopes: scope.split_ascii_whitespace().filter_map(Scope::named).collect(),
            only: only.map(|only| only.iter().map(|path| segments(path)).collect()),
            expires: claims.exp.as_f64().unwrap_or(0.0),
        }
    }
}

impl Caller {
    /// When its token expires.
    pub fn expires_at(&self) -> Timestamp {
        Timestamp::from_unix_micros((self.expires * 1e6) as i64)
    }

    /// Whether its token has this scope. One that is restricted to some entities operates nothing.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) && !(scope == Scope::Admin && self.only.is_some())
    }

    /// Whether it may send a changing request to this path.
    ///
    /// A token with `nudge_only: ["stores/42"]` may put, patch and delete `/stores/42` and what is below, and post
    /// below it. It may not post to the path itself: that is where collections have their commands, such as
    /// `/stores/import`, and an entity's ID may be the word of one.
    pub(super) fn may_change(&self, method: &Method, path: &str) -> bool {
        let Some(only) = &self.only else { return true };
        let path = segments(path);
        let below = usize::from(*method == Method::POST);
        only.iter()
            .any(|one| !one.is_empty() && path.starts_with(one) && path.len() >= one.len() + below)
    }
}

/// A path's segments, decoded: an ID may contain a slash.
fn segments(path: &str) -> Vec<String> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let decode = |segment: &str| percent_decode_str(segment).decode_utf8_lossy().into_owned();
    match path {
        "" => Vec::new(),
        path => path.split('/').map(decode).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(scope: &str, only: Option<&[&str]>) -> Caller {
        let only = only.map(|only| only.iter().map(ToString::to_string).collect());
        let sub = Some("kim".to_owned());
        Claims { sub, scope: Some(scope.to_owned()), nudge_only: only, exp: Value::Null }.into()
    }

    #[test]
    fn scopes_of_other_systems_are_passed_over() {
        let caller = caller("openid  read email write", None);
        let has: Vec<_> = Scope::ALL.into_iter().filter(|scope| caller.has(*scope)).collect();
        assert_eq!(has, [Scope::Read, Scope::Write]);
    }

    #[test]
    fn a_restricted_token_changes_what_it_names_and_what_is_below() {
        let caller =
            caller("write admin", Some(&["stores/42", "/stores/가/", "stores/import", ""]));
        assert!(!caller.has(Scope::Admin) && caller.has(Scope::Write));
        for (method, path, may) in [
            (Method::PUT, "/stores/42", true),
            (Method::DELETE, "/stores/%34%32", true),
            (Method::POST, "/stores/42/reviews", true),
            (Method::POST, "/stores/42", false),
            (Method::PUT, "/stores/421", false),
            (Method::PUT, "/stores/4", false),
            (Method::PUT, "/stores", false),
            (Method::PUT, "/", false),
            (Method::PUT, "/stores/42%2F..", false),
            (Method::PUT, "//stores/42", false),
            (Method::PUT, "/reviews/42", false),
            (Method::PUT, "/stores/import", true),
            (Method::POST, "/stores/import", false),
        ] {
            assert_eq!(caller.may_change(&method, path), may, "{method} {path}");
        }
    }
}
