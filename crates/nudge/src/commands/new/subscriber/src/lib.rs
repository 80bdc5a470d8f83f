//! The service `my-service`. It follows `my-entity`, and answers from its own copy.
//!
//! | module | what it holds |
//! |---|---|
//! | [`read_model`] | the fields of the copy, and its table |
//! | [`http`] | the endpoints |

pub mod http;
pub mod read_model;

use nudge_subscriber_kit::Service;

/// The service: what it is called, where it listens, whom it follows, and what it serves.
///
/// To follow another entity as well, add a `follow`. `--help` lists the settings that this gives the program.
pub fn service() -> Service {
    Service::new("my-service")
        .about("Follows my-entity", env!("CARGO_PKG_VERSION"))
        .listen("127.0.0.1:my-port")
        .follow("my-entity", "http://my-owner", read_model::table())
        .routes(http::routes(), |at| at.database.clone())
}
