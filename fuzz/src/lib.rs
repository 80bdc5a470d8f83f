//! What must hold for any input bytes.
#![doc = include_str!("../README.md")]

mod change;
mod import;
mod items_page;
mod notification;
mod plain;
mod refusal;
mod subject;
mod sync_answer;
mod sync_request;

pub use change::change;
pub use import::import;
pub use notification::notification;
pub use refusal::refusal;
pub use subject::subject;
pub use sync_answer::sync_answer;
pub use sync_request::sync_request;

/// Panics if the property does not hold for the input.
pub type Property = fn(&[u8]);

/// Every property, by the name of its corpus.
pub const PROPERTIES: [(&str, Property); 6] = [
    ("import", import),
    ("notification", notification),
    ("refusal", refusal),
    ("subject", subject),
    ("sync_answer", sync_answer),
    ("sync_request", sync_request),
];
