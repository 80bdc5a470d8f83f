//! How the programs and the lines between them are made.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use nudge_runtime::Broker;
use tokio::sync::Mutex;

use super::World;
use crate::{
    chaos::{
        database::Server,
        disturb::Counts,
        line::Line,
        plan::{Place, Plan, Target, Way},
        ports::Ports,
        process::Program,
    },
    client::{Api, Service},
    dev::{data_dir::DataDir, find_services, guard::Guard},
    failure::Failure,
};

impl World {
    /// Prepares everything; nothing runs yet but the lines.
    pub(in crate::chaos) async fn new(
        exe: &Path,
        nats_exe: PathBuf,
        data: DataDir,
        server: Option<Server>,
        plan: &Plan,
    ) -> Result<Self, Failure> {
        let services = find_services(exe)?;
        data.prepare()?;
        let mut ports = Ports::take()?;
        let nats_port = ports.next()?;
        let mut apis = Vec::new();
        for _ in 0..plan.replicas {
            apis.push(Api::with_ports([ports.next()?, ports.next()?, ports.next()?]));
        }
        let url = format!("nats://127.0.0.1:{nats_port}");
        let broker = Broker::connect(&url, "nudge-chaos").await;
        let broker =
            broker.map_err(|error| Failure::failed(nudge_runtime::problem::chain(&error)))?;
        let guard = Guard::start(exe, &data)?;
        let mut world = Self {
            data,
            guard,
            programs: Default::default(),
            lines: Default::default(),
            server,
            apis,
            _ports: ports,
            broker,
            counts: Arc::<Counts>::default(),
            surprises: Default::default(),
        };
        world.add_nats(nats_exe, nats_port);
        for (service, exe) in services {
            for replica in 1..=plan.replicas {
                world.add_lines(service, replica, nats_port, plan.seed).await?;
                world.add_service(service, replica, exe.clone())?;
            }
        }
        Ok(world)
    }

    fn add_nats(&mut self, exe: PathBuf, port: u16) {
        let mut args: Vec<_> = ["--addr", "127.0.0.1", "--port"].map(Into::into).to_vec();
        args.extend([port.to_string().into(), "--jetstream".into(), "--store_dir".into()]);
        args.extend([self.data.nats().into_os_string(), "--name".into(), "nudge-chaos".into()]);
        self.add(Place::first(Target::Nats), exe, args, Vec::new());
    }

    /// Each replica has lines of its own, so that one can be cut off and the others not.
    async fn add_lines(
        &mut self,
        service: Service,
        replica: u64,
        nats_port: u16,
        seed: u64,
    ) -> Result<(), Failure> {
        let (_, to_nats, to_owner) = Target::of(service);
        let owner_port = self.api(replica).port(Service::StoreInfo);
        let notifications = match service {
            Service::StoreInfo => Way::There,
            Service::Search | Service::Review => Way::Back,
        };
        let lines = [Some((to_nats, nats_port, Some(notifications)))];
        let lines = lines.into_iter().chain([to_owner.map(|on| (on, owner_port, None))]);
        for (on, port, notifications) in lines.flatten() {
            let seed = seed.wrapping_add(on as u64).wrapping_add((replica - 1) << 32);
            let line = Line::to(port, notifications, seed, self.counts.clone()).await?;
            self.lines.insert(Place { on, replica }, line);
        }
        Ok(())
    }

    fn add_service(&mut self, service: Service, replica: u64, exe: PathBuf) -> Result<(), Failure> {
        let (on, to_nats, to_owner) = Target::of(service);
        let address = |on| self.lines[&Place { on, replica }].address();
        let database_url = match &self.server {
            Some(server) => server.database_url(service),
            None => self.data.database_url(service)?,
        };
        let mut env = vec![
            ("DATABASE_URL", database_url),
            ("NATS_URL", format!("nats://{}", address(to_nats))),
            ("BIND", self.api(replica).address(service)),
        ];
        env.push(match to_owner {
            Some(line) => ("STORE_OWNER_URL", format!("http://{}", address(line))),
            None => ("SAMPLE", "false".to_owned()),
        });
        self.add(Place { on, replica }, exe, Vec::new(), env);
        Ok(())
    }

    fn api(&self, replica: u64) -> &Api {
        &self.apis[replica as usize - 1]
    }

    fn add(
        &mut self,
        at: Place,
        exe: PathBuf,
        args: Vec<OsString>,
        env: Vec<(&'static str, String)>,
    ) {
        let name = at.to_string();
        let log = self.data.logs().join(format!("{name}.log"));
        let (guard, last) = (self.guard.clone(), at.on == Target::Nats);
        let (child, guarded, started) = (None, None, Instant::now());
        let program = Program { name, exe, args, env, log, guard, last, child, guarded, started };
        self.programs.insert(at, Mutex::new(program));
    }
}
