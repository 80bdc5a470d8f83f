//! `nudge new`: writes the beginning of a service, which compiles, passes its tests and runs beside the demo.
//!
//! | module | what it does |
//! |---|---|
//! | `name` | which names a service may have |
//! | `place` | where the service goes, and where Nudge is |
//! | `template` | the files, which lie in `subscriber` and `owner`, with names filled in |

mod name;
mod place;
mod template;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use nudge_protocol::EntityName;
use serde_json::json;

use crate::{client::Service, failure::Failure, output};
use name::ServiceName;
use place::Place;
use template::Template;

/// Default port of a new owner. The demo's ports begin at 7100, and end before it.
const OWNER_PORT: u16 = 7_300;
/// Default port of a new subscriber.
const SUBSCRIBER_PORT: u16 = 7_301;

/// What to begin.
#[derive(Debug, Subcommand)]
pub(crate) enum NewVerb {
    /// A service that keeps its own copy of an entity of another service
    #[command(after_help = "Example: nudge new subscriber names --follow store")]
    Subscriber(SubscriberArgs),
    /// A service that owns an entity, which others follow
    #[command(after_help = "Example: nudge new owner riders --entity rider")]
    Owner(OwnerArgs),
}

/// Arguments of `nudge new subscriber`.
#[derive(Args, Debug)]
pub(crate) struct SubscriberArgs {
    #[command(flatten)]
    common: Common,
    /// The entity to follow, such as store
    #[arg(long, value_name = "ENTITY")]
    follow: EntityName,
    /// Where its owner listens, unless STORE_OWNER_URL (for store) says otherwise [default: that of the demo's owner, or of a new one]
    #[arg(long, value_name = "URL", value_parser = nudge_runtime::args::http_url)]
    owner: Option<String>,
    /// Port to listen on, unless BIND says otherwise
    #[arg(long, default_value_t = SUBSCRIBER_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// Arguments of `nudge new owner`.
#[derive(Args, Debug)]
pub(crate) struct OwnerArgs {
    #[command(flatten)]
    common: Common,
    /// The entity that it owns [default: NAME]
    #[arg(long, value_name = "ENTITY")]
    entity: Option<EntityName>,
    /// Port to listen on, unless BIND says otherwise
    #[arg(long, default_value_t = OWNER_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

#[derive(Args, Debug)]
struct Common {
    /// The service's name: its package, its program, and what the broker knows it by
    name: ServiceName,
    /// Directory to create [default: NAME]
    #[arg(long, value_name = "DIRECTORY")]
    path: Option<PathBuf>,
    /// A checkout of Nudge, which the service depends on [default: the one around the new directory, or else the one that this program was built from]
    #[arg(long, value_name = "DIRECTORY")]
    nudge: Option<PathBuf>,
}

/// Runs `nudge new`. The demo's ports begin at `port_base`.
pub(crate) fn run(verb: NewVerb, port_base: u16, json: bool) -> Result<(), Failure> {
    let (common, template) = match verb {
        NewVerb::Subscriber(SubscriberArgs { common, follow, owner, port }) => {
            let owner = owner.unwrap_or_else(|| owner_of(&follow, port_base));
            (common, Template::subscriber(follow, owner, port))
        }
        NewVerb::Owner(OwnerArgs { common, entity, port }) => {
            let entity = entity.unwrap_or_else(|| common.name.as_entity());
            (common, Template::owner(entity, port))
        }
    };
    let Common { name, path, nudge } = common;
    let place = Place::find(path.unwrap_or_else(|| name.as_str().into()), nudge)?;
    let files = template.files(&name, &place.nudge_from_there()?);
    let is_member = place.write(&name, &files)?;
    let directory = place.directory.display().to_string();
    if json {
        return output::json(&json!({
            "name": name.as_str(),
            "entity": template.entity,
            "port": template.port,
            "directory": directory,
            "workspace_member": is_member,
        }));
    }
    let (role, entity, port) = (template.role(), &template.entity, template.port);
    let member = if is_member { ", a member of the workspace there" } else { "" };
    let owner =
        template.owner_url().map(|url| format!(" of the owner at {url}")).unwrap_or_default();
    output::line(format!("{name} {role} {entity}{owner}; it is in {directory}{member}"))?;
    output::line("Next, in that directory:")?;
    output::line("  cargo test")?;
    output::line(format!("  DATABASE_URL=sqlite:{name}.db cargo run     # beside `nudge dev`"))?;
    output::line(format!("  nudge status --also {name}=http://127.0.0.1:{port}"))?;
    output::line("README.md there says what to change; docs/new-service.md goes on from there.")
}

/// Where the owner of an entity listens by default.
fn owner_of(entity: &EntityName, port_base: u16) -> String {
    match Service::owner_of(entity.as_str()) {
        Some(service) => service.url(port_base),
        None => format!("http://127.0.0.1:{OWNER_PORT}"),
    }
}
