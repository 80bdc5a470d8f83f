//! The demo's NATS server.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::TryStreamExt;
use nudge_protocol::{
    EntityName,
    subject::{former_consumer_name, stream_name},
};
use nudge_runtime::{BoxError, Broker, broker::NatsArgs, problem::chain};
use nudge_testbed::{
    Service,
    nats::{self, is_ready},
    program::{Launch, Output},
};

use super::{data_dir::DataDir, ports, talk::Talk};
use crate::{
    failure::Failure,
    permissions::{Keys, Role, Services},
};

/// How many digits the identity of a read model has.
const FORMER_IDENTITY: usize = 32;
/// Interval between checks of whether it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The path of a server, looked for from here and from the checkout of this program, `exe`: the one around it, and the one
/// that it was built from, if cargo builds elsewhere.
pub(crate) async fn find(exe: &Path, talk: &Talk) -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().unwrap_or_default();
    let places = [&here, exe, Path::new(env!("CARGO_MANIFEST_DIR"))];
    let found = nats::find(&places, || talk.doing("looking for a NATS server")).await;
    found.map_err(Failure::Failed)
}

/// The URL at which the services reach it.
pub(super) fn url(base: u16) -> String {
    format!("nats://127.0.0.1:{}", ports::nats(base))
}

/// The server, on loopback, with JetStream in the data directory.
pub(super) fn launch(exe: &Path, base: u16, data: &DataDir) -> Launch {
    let log = Output::Log(data.logs().join("nats.log"));
    let mut launch = nats::launch(exe, ports::nats(base), &data.nats(), log);
    launch.args.extend(["--name", "nudge-dev"].map(Into::into));
    launch.args.extend(config(&data.keys()));
    launch.last = true;
    launch
}

/// Writes who may do what at the demo's server: each service what it needs, and guests, such as services of one's own,
/// everything that takes nothing from them.
pub(crate) fn permit(keys: &Keys) -> Result<(), Failure> {
    let mut services = Services::default();
    let entity = |owner: Service| owner.owns().map(|name| EntityName::new(name).expect("a name"));
    for service in Service::ALL {
        let owned = entity(service).map(|entity| (Role::Owner, entity));
        let followed = service.follows().filter_map(entity).map(|one| (Role::Subscriber, one));
        for (role, entity) in owned.into_iter().chain(followed) {
            services.add(service.name(), role, entity).map_err(Failure::Failed)?;
        }
    }
    services.let_in_guests(true);
    keys.write(&services)
}

/// The server's argument for them.
pub(crate) fn config(keys: &Keys) -> [OsString; 2] {
    ["--config".into(), keys.config().into()]
}

/// The setting by which a service of the demo logs in.
pub(crate) fn login(keys: &Keys, service: Service) -> (&'static str, String) {
    ("NATS_NKEY_FILE", keys.seed(service.name()).display().to_string())
}

/// The operator's connection to the server at `url`, as `name`.
pub(crate) async fn connect(keys: &Keys, url: &str, name: &str) -> Result<Broker, Failure> {
    let nats_nkey_file = Some(keys.operators_seed());
    let args = NatsArgs { nats_nkey_file, ..NatsArgs::at(url) };
    Broker::connect_with(&args, name).await.map_err(|error| Failure::failed(chain(&error)))
}

/// Removes the consumers that services of an earlier release have left: their names are not among those that services
/// may touch. Only while no service runs.
pub(super) async fn remove_former_consumers(broker: &Broker) -> Result<(), BoxError> {
    let streams: Vec<String> = broker.jetstream.stream_names().try_collect().await?;
    for owner in Service::ALL {
        let Some(entity) = owner.owns().map(|name| EntityName::new(name).expect("a name")) else {
            continue;
        };
        let followers =
            || Service::ALL.into_iter().filter(|one| one.follows().any(|it| it == owner));
        let name = stream_name(&entity);
        if !streams.contains(&name) {
            continue;
        }
        let stream = broker.jetstream.get_stream_no_info(name).await?;
        let consumers: Vec<String> = stream.consumer_names().try_collect().await?;
        let is_former = |consumer: &&String| {
            let identity = consumer.rsplit('-').next().unwrap_or_default();
            let hex = identity.len() == FORMER_IDENTITY
                && identity.bytes().all(|b| b.is_ascii_hexdigit());
            hex && followers()
                .any(|one| former_consumer_name(one.name(), &entity, identity) == **consumer)
        };
        for consumer in consumers.iter().filter(is_former) {
            stream.delete_consumer(consumer).await?;
        }
    }
    Ok(())
}

/// Waits until the server answers through a real connection, JetStream included.
pub(super) async fn wait_ready(broker: &Broker, talk: &Talk) {
    loop {
        talk.doing("starting NATS");
        if is_ready(broker).await {
            return;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
