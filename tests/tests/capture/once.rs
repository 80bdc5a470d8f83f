//! What only one of the databases does. These run once, whatever database the run is for.

mod postgres;
mod sqlite;
