//! Which scope a route needs: one table for every service.
//!
//! | route | scope |
//! |---|---|
//! | `/livez`, `/readyz` | none: whoever starts and stops services asks these |
//! | `/metrics`, `GET /nudge/v1/…`, `POST /nudge/v1/keys/…` | `observe` |
//! | `GET /nudge/v1/wait`, `GET /nudge/v1/applied/…` | `read`: a reader waits for what it wrote |
//! | everything else under `/nudge/v1` | `admin` |
//! | `/sync/v1/…` | `sync` |
//! | `GET` and `HEAD` of everything else, and `POST` where a service says that it only reads | `read` |
//! | everything else | `write` |
//!
//! A route that nobody thought of needs `read` or `write`; none is open by mistake.

use std::fmt;

use axum::http::Method;

/// What a token allows. They do not include each other: a token names each that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// To read what a service is for, and to wait for one's own writes.
    Read,
    /// To change it.
    Write,
    /// To call back: the state, the versions and the digests of every entity.
    Sync,
    /// To see how a service does: metrics, status, events, dead letters.
    Observe,
    /// To operate it: pause, replay, discard, resync.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::Sync, Self::Observe, Self::Admin];

    /// As a token's `scope` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Observe => "observe",
            Self::Admin => "admin",
        }
    }

    /// The scope of this name. A token may also have scopes of other systems.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    /// Whether it lets a caller change something.
    pub(super) fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Admin)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The scope that a request needs; `None` if it needs no token. `reads` are the paths of the service's own routes where
/// a `POST` only reads.
pub fn needed(method: &Method, path: &str, reads: &[&str]) -> Option<Scope> {
    let safe = matches!(*method, Method::GET | Method::HEAD);
    if let Some(admin) = path.strip_prefix("/nudge/v1/") {
        let first = admin.split('/').next().unwrap_or_default();
        return Some(match first {
            "wait" | "applied" if safe => Scope::Read,
            "keys" if *method == Method::POST => Scope::Observe,
            _ if safe => Scope::Observe,
            _ => Scope::Admin,
        });
    }
    match path {
        "/livez" | "/readyz" => None,
        "/metrics" => Some(Scope::Observe),
        _ if path.starts_with("/sync/v1/") => Some(Scope::Sync),
        _ if safe || (*method == Method::POST && reads.contains(&path)) => Some(Scope::Read),
        _ => Some(Scope::Write),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_needs_what_the_table_says() {
        for (method, path, scope) in [
            (Method::GET, "/livez", None),
            (Method::GET, "/readyz", None),
            (Method::GET, "/metrics", Some(Scope::Observe)),
            (Method::GET, "/openapi.json", Some(Scope::Read)),
            (Method::GET, "/nudge/v1/status", Some(Scope::Observe)),
            (Method::GET, "/nudge/v1/wait", Some(Scope::Read)),
            (Method::HEAD, "/nudge/v1/applied/store/42", Some(Scope::Read)),
            (Method::POST, "/nudge/v1/keys/store", Some(Scope::Observe)),
            (Method::DELETE, "/nudge/v1/keys/store", Some(Scope::Admin)),
            (Method::POST, "/nudge/v1/wait", Some(Scope::Admin)),
            (Method::POST, "/nudge/v1/pause", Some(Scope::Admin)),
            (Method::DELETE, "/nudge/v1/dead-letters/store/42", Some(Scope::Admin)),
            (Method::POST, "/sync/v1/store/batch-get", Some(Scope::Sync)),
            (Method::GET, "/sync/v1/store/42", Some(Scope::Sync)),
            (Method::GET, "/stores", Some(Scope::Read)),
            (Method::POST, "/stores", Some(Scope::Write)),
            (Method::POST, "/graphql", Some(Scope::Read)),
            (Method::PUT, "/graphql", Some(Scope::Write)),
            (Method::OPTIONS, "/stores", Some(Scope::Write)),
            (Method::GET, "/livez/", Some(Scope::Read)),
            (Method::GET, "/nudge/v1", Some(Scope::Read)),
        ] {
            assert_eq!(needed(&method, path, &["/graphql"]), scope, "{method} {path}");
        }
    }
}
