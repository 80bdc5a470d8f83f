//! The kit's own tables in the read model's database, and the guard of the service's tables.

pub(crate) mod applied;
pub(crate) mod contents;
mod counted;
pub(crate) mod dead_letter;
pub(crate) mod guard;
pub(crate) mod position;
pub(crate) mod recent;
pub(crate) mod replica;
pub(crate) mod revision;
pub(crate) mod tables;
