//! Charging stations, and a map of them: an owner and a subscriber that have nothing to do with stores.
//!
//! ```text
//! charging-stations ──► NATS ──► charging-map ──► GET /stations?south=&west=&north=&east=
//!         ▲                           │
//!         └───────── callback ────────┘
//! ```
//!
//! | module | what it contains |
//! |---|---|
//! | [`station`] | what a station is, and what an edit makes of it. Pure |
//! | [`stations`] | the owner: its SQL, its endpoints, the service `charging-stations` |
//! | [`map`] | the subscriber: its read model, its query, the service `charging-map` |
//!
//! The two services share the name of the entity and no other code: the map reads the state from JSON, as
//! it would if the owner were written by somebody else.

pub mod map;
pub mod station;
pub mod stations;

/// The kind of entity that one service owns and the other follows.
pub const STATION: &str = "station";
