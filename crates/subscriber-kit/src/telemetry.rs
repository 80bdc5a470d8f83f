//! What a subscriber tells of its work: figures, and events of single keys.

pub(crate) mod catching_up;
pub(crate) mod events;
pub(crate) mod progress;
pub(crate) mod runs;
pub(crate) mod seldom;
pub(crate) mod traces;
