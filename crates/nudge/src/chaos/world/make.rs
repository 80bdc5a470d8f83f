//! Creates the programs and the lines between them.

use std::path::{Path, PathBuf};

use nudge_runtime::Broker;
use nudge_testbed::{
    Line, Program, Way,
    line::Settings,
    nats,
    ports::Ports,
    program::{Launch, Output},
};
use tokio::sync::Mutex;

use super::{World, peer};
use crate::{
    chaos::{
        database::Server,
        plan::{Place, Plan, Target, Who},
        plant,
    },
    client::{Api, Service},
    dev::{data_dir::DataDir, guard},
    failure::Failure,
    peers::Peer,
    service,
};

impl World {
    /// Prepares everything; only the lines run yet.
    pub(in crate::chaos) async fn new(
        exe: &Path,
        nats_exe: PathBuf,
        data: DataDir,
        server: Option<Server>,
        plan: &Plan,
    ) -> Result<Self, Failure> {
        data.prepare()?;
        let mut ports = Ports::of_a_run().ok_or_else(|| Failure::failed("no free ports"))?;
        let mut port = || ports.next_free().ok_or_else(|| Failure::failed("too few free ports"));
        let nats_port = port()?;
        let mut apis = Vec::new();
        for _ in 0..plan.replicas {
            let mut ports = [0; Service::ALL.len()];
            for one in &mut ports {
                *one = port()?;
            }
            let api = Api::with_ports(ports);
            let mut peers = api.peers().to_vec();
            for name in plan.with.keys() {
                peers.push(Peer::new(name, format!("http://127.0.0.1:{}", port()?)));
            }
            apis.push(api.with(peers));
        }
        let url = format!("nats://127.0.0.1:{nats_port}");
        let broker = Broker::connect(&url, "nudge-chaos").await;
        let broker =
            broker.map_err(|error| Failure::failed(nudge_runtime::problem::chain(&error)))?;
        let guard = guard::start(exe, &data)?;
        let mut world = Self {
            data,
            guard,
            programs: Default::default(),
            lines: Default::default(),
            server,
            cast: plan.cast(),
            apis,
            _ports: ports,
            broker,
            counts: Default::default(),
            surprises: Default::default(),
            broken: Default::default(),
        };
        world.add_nats(&nats_exe, nats_port);
        for who in plan.cast().everyone() {
            for replica in 1..=plan.replicas {
                world.add_lines(who, replica, nats_port, plan.seed).await?;
                world.add_service(who, replica, exe, plan)?;
            }
        }
        Ok(world)
    }

    fn add_nats(&mut self, exe: &Path, port: u16) {
        let at = Place::first(Target::Nats);
        let mut launch = nats::launch(exe, port, &self.data.nats(), self.log(at));
        launch.args.extend(["--name", "nudge-chaos"].map(Into::into));
        launch.last = true;
        self.add(at, launch);
    }

    /// Each replica has its own lines, so that it can be cut off alone.
    async fn add_lines(
        &mut self,
        who: Who,
        replica: u64,
        nats_port: u16,
        seed: u64,
    ) -> Result<(), Failure> {
        // What an owner publishes, and what others are told.
        let notifications = match who {
            Who::Demo(Service::StoreInfo) => Way::There,
            _ => Way::Back,
        };
        let to_nats = (Target::ToNats(who), nats_port, Some(notifications));
        let to_others = who.asks().iter().map(|(_, other)| {
            (Target::Line(who, *other), self.api(replica).of(*other).port(), None)
        });
        let lines: Vec<_> = [to_nats].into_iter().chain(to_others).collect();
        for (on, port, notifications) in lines {
            let number = self.cast.lines().position(|line| line == on).unwrap_or_default() as u64;
            let seed = seed.wrapping_add(number).wrapping_add((replica - 1) << 32);
            let counts = self.counts.clone();
            let line = Line::to(port, Settings { notifications, seed, counts, keeps: false }).await;
            let line = line.map_err(|error| Failure::failed(format!("cannot listen: {error}")))?;
            self.lines.insert(Place { on, replica }, line);
        }
        Ok(())
    }

    fn add_service(
        &mut self,
        who: Who,
        replica: u64,
        exe: &Path,
        plan: &Plan,
    ) -> Result<(), Failure> {
        let at = Place { on: Target::Program(who), replica };
        let address = |on| self.lines[&Place { on, replica }].address();
        let (database_url, mut launch) = match who {
            Who::Demo(service) => {
                let url = match &self.server {
                    Some(server) => server.database_url(service),
                    None => self.data.database_url(service.name())?,
                };
                (url, service::launch(service, exe, self.log(at)))
            }
            // The server has a schema for each service of the demo only.
            Who::Guest(name) => {
                let words = &plan.with[name];
                let mut launch = Launch::new(name, Path::new(&words[0]), self.log(at));
                launch.args = words[1..].iter().map(Into::into).collect();
                (self.data.database_url(name)?, launch)
            }
        };
        launch.env = vec![
            ("DATABASE_URL", database_url),
            ("NATS_URL", format!("nats://{}", address(Target::ToNats(who)))),
            ("BIND", peer(self.api(replica), who).address().to_owned()),
        ];
        for (setting, other) in who.asks() {
            let url = format!("http://{}", address(Target::Line(who, *other)));
            launch.env.push((setting, url));
        }
        match self.cast.subscribers().any(|subscriber| subscriber == who) {
            // Notifications alone must do: comparing would hide what they lose.
            true => launch.env.push((plant::SETTING, "0".to_owned())),
            false => launch.env.push(("SAMPLE", "false".to_owned())),
        }
        self.add(at, launch);
        Ok(())
    }

    fn api(&self, replica: u64) -> &Api {
        &self.apis[replica as usize - 1]
    }

    fn log(&self, at: Place) -> Output {
        Output::Log(self.data.logs().join(format!("{at}.log")))
    }

    fn add(&mut self, at: Place, launch: Launch) {
        let launch = Launch {
            name: at.to_string(),
            disk_may_be_full: true,
            guard: Some(self.guard.clone()),
            ..launch
        };
        self.programs.insert(at, Mutex::new(Program::new(launch)));
    }
}
