//! The files of a new service. They are real files; these words in them stand for others:
//!
//! | word | stands for |
//! |---|---|
//! | `my-service`, `my_service` | the service's name, as a package and as a crate |
//! | `my-entity`, `my_entity`, `MY_ENTITY` | the entity's name, as such, in names of tables, and in names of settings |
//! | `my-port` | the port to listen on |
//! | `http://my-owner` | where the owner listens |
//! | `my-nudge` | where Nudge is |

use nudge_protocol::EntityName;

use super::name::ServiceName;

/// The dependencies, for the end of the manifest that cargo writes.
pub(crate) const DEPENDENCIES: &str = "dependencies.toml";

/// A file of a template: its path, and its text.
type File = (&'static str, &'static str);

macro_rules! files {
    ($folder:literal: $($path:literal),*) => {
        &[$(($path, include_str!(concat!($folder, "/", $path)))),*]
    };
}

const SUBSCRIBER: &[File] = files!(
    "subscriber": "dependencies.toml", "README.md", "src/main.rs", "src/lib.rs", "src/read_model.rs", "src/http.rs",
    "tests/service.rs"
);
const OWNER: &[File] = files!(
    "owner": "dependencies.toml", "README.md", "src/main.rs", "src/lib.rs", "src/item.rs", "src/storage.rs", "src/http.rs",
    "tests/service.rs"
);

/// What a new service is to be.
pub(crate) struct Template {
    files: &'static [File],
    /// What it follows, or owns.
    pub(crate) entity: EntityName,
    /// Where its owner is; nothing for an owner.
    owner_url: Option<String>,
    /// Where it listens.
    pub(crate) port: u16,
}

impl Template {
    /// A service that follows `entity`.
    pub(crate) fn subscriber(entity: EntityName, owner_url: String, port: u16) -> Self {
        Self { files: SUBSCRIBER, entity, owner_url: Some(owner_url), port }
    }

    /// A service that owns `entity`.
    pub(crate) fn owner(entity: EntityName, port: u16) -> Self {
        Self { files: OWNER, entity, owner_url: None, port }
    }

    /// What it does with its entity.
    pub(crate) fn role(&self) -> &'static str {
        if self.owner_url.is_none() { "owns" } else { "follows" }
    }

    /// Where the owner is of what it follows.
    pub(crate) fn owner_url(&self) -> Option<&str> {
        self.owner_url.as_deref()
    }

    /// The files, each with its path below the service's directory. `nudge` is where Nudge is, from there.
    pub(crate) fn files(&self, name: &ServiceName, nudge: &str) -> Vec<(&'static str, String)> {
        let identifier = |name: &str| name.replace('-', "_");
        let (name, entity) = (name.as_str(), self.entity.as_str());
        let words = [
            ("my-service", name.to_owned()),
            ("my_service", identifier(name)),
            ("my-entity", entity.to_owned()),
            ("my_entity", identifier(entity)),
            ("MY_ENTITY", identifier(entity).to_uppercase()),
            ("my-port", self.port.to_string()),
            ("http://my-owner", self.owner_url.clone().unwrap_or_default()),
            ("my-nudge", nudge.to_owned()),
        ];
        self.files.iter().map(|(path, text)| (*path, filled(text, &words))).collect()
    }
}

/// The text with each word replaced. What replaces one is not looked at again: a name may contain another word.
fn filled(text: &str, words: &[(&str, String)]) -> String {
    let (mut filled, mut rest) = (String::new(), text);
    let next = |rest: &str| {
        let found = words.iter().filter_map(|(word, by)| Some((rest.find(word)?, *word, by)));
        found.min_by_key(|(at, ..)| *at)
    };
    while let Some((at, word, by)) = next(rest) {
        filled.push_str(&rest[..at]);
        filled.push_str(by);
        rest = &rest[at + word.len()..];
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_replaces_a_word_is_left_alone() {
        let words = [("my-a", "my-b".to_owned()), ("my-b", "my-a".to_owned())];
        assert_eq!(filled("my-b, my-a; my-", &words), "my-a, my-b; my-");
    }
}
