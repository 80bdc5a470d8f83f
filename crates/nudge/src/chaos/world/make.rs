//! Creates the programs and the lines between them.

use std::path::{Path, PathBuf};

use nudge_testbed::{
    Program, nats,
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
    dev::{self, data_dir::DataDir, guard},
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
        dev::nats::permit(&data.keys())?;
        let broker = dev::nats::connect(&data.keys(), &url, "nudge-chaos").await?;
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
            seed: plan.seed,
            surprises: Default::default(),
            broken: Default::default(),
        };
        world.add_nats(&nats_exe, nats_port);
        for who in plan.cast().everyone() {
            for replica in 1..=plan.replicas {
                // Each replica has its own lines, so that it can be cut off alone.
                let api = world.apis[replica as usize - 1].clone();
                let port = |other| api.of(other).port();
                world.lines.add(who, replica, nats_port, port, plan.seed).await?;
                world.add_service(who, replica, exe, plan)?;
            }
        }
        Ok(world)
    }

    fn add_nats(&mut self, exe: &Path, port: u16) {
        let at = Place::first(Target::Nats);
        let mut launch = nats::launch(exe, port, &self.data.nats(), self.log(at));
        launch.args.extend(["--name", "nudge-chaos"].map(Into::into));
        launch.args.extend(dev::nats::config(&self.data.keys()));
        launch.last = true;
        self.add(at, launch);
    }

    fn add_service(
        &mut self,
        who: Who,
        replica: u64,
        exe: &Path,
        plan: &Plan,
    ) -> Result<(), Failure> {
        let at = Place { on: Target::Program(who), replica };
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
            ("BIND", peer(self.api(replica), who).address().to_owned()),
        ];
        launch.env.extend(self.lines.settings(who, replica));
        if let Who::Demo(service) = who {
            launch.env.push(dev::nats::login(&self.data.keys(), service));
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
