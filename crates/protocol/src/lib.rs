//! What an owner and its subscribers agree on, and nothing else.
//!
//! An owner commits a change and publishes a [`Notification`]: an ID and the kind of change, never
//! the data. A subscriber calls back over the [`sync_api`] and gets the entity's current state with
//! its [`Version`]. This crate holds those types and their text forms: keys, subjects, tokens,
//! timestamps. It does no I/O, so every rule in it can be tested exhaustively.
//!
//! | module | what it defines |
//! |---|---|
//! | [`entity`] | entity names and IDs: what is allowed, and why |
//! | [`version`] | the owner's number for a state |
//! | [`subject`] | how a key becomes a NATS subject and back |
//! | [`notification`] | the message body and its headers |
//! | [`cloud_events`] | notifications as CloudEvents |
//! | [`write_token`] | `Nudge-Token`: "make this write visible to me" |
//! | [`timestamp`] | instants, as text and as microseconds |
//! | [`sync_api`] | the owner's HTTP API for callbacks |
//! | [`digest`] | comparing ranges of entities with the owner |
//! | [`admin`] | what every subscriber reports about itself |
//! | [`object`] | strict JSON: objects and words only in their documented form, no duplicate fields |

pub mod admin;
pub mod cloud_events;
pub mod digest;
pub mod entity;
pub mod notification;
pub mod object;
pub mod subject;
pub mod sync_api;
pub mod timestamp;
pub mod version;
pub mod write_token;

pub use entity::{EntityId, EntityName, InvalidEntityId, InvalidEntityName, MAX_ENTITY_ID_BYTES};
pub use notification::{Change, Notification};
pub use object::{Object, Unambiguous};
pub use timestamp::Timestamp;
pub use version::Version;
pub use write_token::WriteToken;
