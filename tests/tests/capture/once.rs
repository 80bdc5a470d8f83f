//! What only one of the databases has. These run once, whatever database is under test.

mod postgres;
mod sqlite;
