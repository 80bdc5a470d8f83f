//! `nudge nats-config`: permissions at NATS, and keys.

use std::path::PathBuf;

use clap::Args;
use nudge_protocol::EntityName;
use nudge_runtime::private;
use serde_json::json;

use crate::{
    failure::Failure,
    output,
    permissions::{Events, Keys, Role},
};

const AFTER_HELP: &str = "\
Writes nats.conf, for `include` in the configuration of nats-server, and one secret key for each service: give it to the
service as NATS_NKEY_FILE. NAME is what the service calls itself: Service::new(NAME). nudge.nkey is for `nudge` itself.
When it is run again, the keys, services and guests of before stay, and new ones are added; let the server read it again with
`nats-server --signal reload`. To remove a service, delete it from services.json and run this again.

Example:
  nudge nats-config --dir nats --owner store-info=store --subscriber search=store \\
      --owner review=review --subscriber review=store
  NATS_NKEY_FILE=nats/search.nkey search …

docs/security.md says who may do what.";

/// Arguments of `nudge nats-config`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct NatsConfigArgs {
    /// Directory for the configuration and the keys
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// A service that owns an entity, such as store-info=store. Can be given several times
    #[arg(long = "owner", value_name = "NAME=ENTITY", value_parser = pair)]
    owners: Vec<(String, EntityName)>,
    /// A service that follows an entity, such as search=store. Can be given several times
    #[arg(long = "subscriber", value_name = "NAME=ENTITY", value_parser = pair)]
    subscribers: Vec<(String, EntityName)>,
    /// A service that learns of an entity from CloudEvents in a stream that is not ours, such as
    /// board=order=ORDERS=shop.orders.*. Can be given several times
    #[arg(long = "cloud-events", value_name = "NAME=ENTITY=STREAM=SUBJECTS", value_parser = events)]
    cloud_events: Vec<(String, EntityName, Events)>,
    /// Let in whoever has no credentials, too, for all that touches none of these services and their streams
    #[arg(long)]
    guests: bool,
    /// Let in no guests any more
    #[arg(long, conflicts_with = "guests")]
    no_guests: bool,
}

fn events(text: &str) -> Result<(String, EntityName, Events), String> {
    let [name, entity, stream, subjects] = text.split('=').collect::<Vec<_>>()[..] else {
        return Err("must be NAME=ENTITY=STREAM=SUBJECTS".into());
    };
    let (stream, subjects) = (stream.to_owned(), subjects.to_owned());
    let entity = EntityName::new(entity).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), entity, Events { stream, subjects }))
}

fn pair(text: &str) -> Result<(String, EntityName), String> {
    let (name, entity) = text.split_once('=').ok_or("must be NAME=ENTITY")?;
    Ok((name.to_owned(), EntityName::new(entity).map_err(|error| error.to_string())?))
}

/// Writes it.
pub(crate) fn run(args: NatsConfigArgs, json: bool) -> Result<(), Failure> {
    private::keep_new_files();
    let keys = Keys::at(&args.dir);
    let mut services = keys.services()?;
    let owners = args.owners.into_iter().map(|one| (one, Role::Owner));
    let subscribers = args.subscribers.into_iter().map(|one| (one, Role::Subscriber));
    for ((name, entity), role) in owners.chain(subscribers) {
        services.add(&name, role, entity).map_err(Failure::Usage)?;
    }
    for (name, entity, events) in args.cloud_events {
        services.add_events(&name, entity, events).map_err(Failure::Usage)?;
    }
    if args.guests || args.no_guests {
        services.let_in_guests(args.guests);
    }
    keys.write(&services)?;
    let config = keys.config();
    match json {
        true => {
            let mut written = json!(services);
            written["config"] = json!(config);
            output::json(&written)
        }
        false => output::line(format!("written: {}", config.display())),
    }
}
