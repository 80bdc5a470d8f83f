//! `nudge chaos`: runs the demo's programs under random faults and edits, and checks that they converge.
//!
//! ```text
//! seed ► plan ► start everything ► edits and faults ► heal ► compare everything ► plant ► compare again ► report
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`plan`] | what happens when: generated from a seed, or read from a file |
//! | [`lines`] | the lines between programs |
//! | [`database`], [`world`] | the database server; the programs, and everything together |
//! | [`inject`] | starts and ends a fault |
//! | [`edits`], [`reviews`], [`follow`] | what is written, and what subscribers and readers see meanwhile |
//! | [`plant`] | differences that no notification tells of |
//! | [`drawer`] | the same faults one at a time, by hand, while `nudge dev --chaos` runs |
//! | [`mod@run`], [`board`], [`picture`], [`report`] | a run, and what it shows |
//!
//! Programs, lines and the comparison are those of [`nudge_testbed`].

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use nudge_chance::Random;
use tokio_util::sync::CancellationToken;

use self::{
    database::Server,
    picture::Picture,
    plan::{Databases, MAX_MILLIS, MAX_REPLICAS, MIN_MILLIS, Plan, Who},
    report::{Report, Verdict},
    run::Run,
    world::World,
};
use crate::{
    dev::{data_dir::DataDir, nats, talk::Talk},
    failure::Failure,
    output, signals,
};

mod board;
mod database;
pub(crate) mod drawer;
mod edits;
mod follow;
mod inject;
pub(crate) mod lines;
mod picture;
mod plan;
mod plant;
mod report;
mod reviews;
mod run;
mod world;

/// The plan's file in the data directory.
const PLAN_FILE: &str = "plan.json";

const AFTER_HELP: &str = "\
Examples:
  nudge chaos run --minutes 2                      a seed of its own, printed in the report
  nudge chaos run --seed 7 --minutes 0.5 --json    the same faults and edits each time
  nudge chaos run --seed 7 --plan-out plan.json    keep the plan, to read or to change it
  nudge chaos run --replicas 2                     two of each service, on one database
  nudge chaos run --with names=target/debug/names  a subscriber of yours takes part, too
  nudge chaos replay plan.json                     exactly this plan again
  nudge chaos run --postgres-command \"python3 scripts/postgres run\"
                                                   the database server is a victim, too

It starts programs of its own, on free ports and empty data: a demo that runs is left alone.
Exit status: 0 only when every read model says of every store what the owner says; 4 when the run itself
could not be carried out, so that nothing is known.";

/// `nudge chaos …`.
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(crate) enum ChaosVerb {
    /// Break one thing after another, at random from a seed, and check that everything converges
    #[command(after_help = AFTER_HELP)]
    Run(RunArgs),
    /// Carry out the plan of an earlier run again
    #[command(after_help = AFTER_HELP)]
    Replay(ReplayArgs),
}

/// Arguments of `nudge chaos run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Seed that decides every edit and every fault; by default, a new one
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many minutes edits and faults go on; fractions are allowed
    #[arg(long, value_name = "M", default_value = "1", value_parser = millis)]
    minutes: u64,
    /// Replicas of each service, on one database; any of them may be hit
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..=MAX_REPLICAS),
    )]
    replicas: u64,
    /// Another subscriber of stores, reviews or both on the kit, which is started, broken and compared, too
    ///
    /// NAME is what it is called at the broker: `Service::new(NAME)`. It gets its settings from the environment: DATABASE_URL
    /// (an SQLite file), NATS_URL, BIND, STORE_OWNER_URL, REVIEW_OWNER_URL. The line is split at spaces. What is compared
    /// is the version of everything that it follows.
    #[arg(long = "with", value_name = "NAME=COMMAND", value_parser = guest)]
    with: Vec<(String, Vec<String>)>,
    /// Where to write the plan; by default, the data directory
    #[arg(long, value_name = "FILE")]
    plan_out: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

/// Arguments of `nudge chaos replay`.
#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// The plan
    #[arg(value_name = "FILE")]
    plan: PathBuf,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args, Debug)]
struct CommonArgs {
    /// Directory for data and logs, new or empty. By default, a temporary one that is deleted
    /// if everything converges
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Time allowed to converge after the last fault
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 120,
        value_parser = clap::value_parser!(u64).range(1..=3_600),
    )]
    heal_seconds: u64,
    /// Keep the services' data on a PostgreSQL server that this program runs, and kill and freeze that
    /// server too
    ///
    /// The line is split at spaces, without regard to quotes. The program must print a line of JSON with `url`
    /// once the server answers, take the commands `crash`, `start`, `freeze` and `thaw`, one per line, on
    /// its standard input, answer each with such a line, and stop the server when that input ends. In a
    /// checkout of Nudge, "python3 scripts/postgres run" does this.
    #[arg(long, value_name = "CMD", value_parser = words)]
    postgres_command: Option<Words>,
}

impl CommonArgs {
    fn databases(&self) -> Databases {
        self.postgres_command.as_ref().map_or(Databases::Sqlite, |_| Databases::Postgres)
    }

    async fn start_server(&self, talk: &Talk) -> Result<Option<Server>, Failure> {
        let Some(command) = &self.postgres_command else { return Ok(None) };
        talk.doing("starting PostgreSQL");
        Server::start(command).await.map(Some)
    }

    /// The arguments to repeat for a replay.
    fn again(&self) -> String {
        let quoted = |words: &Words| words.join(" ").replace('\'', r"'\''");
        let command = self.postgres_command.as_ref().map(quoted);
        command.map_or(String::new(), |command| format!(" --postgres-command '{command}'"))
    }
}

/// A command line as its words.
type Words = std::sync::Arc<[String]>;

fn words(line: &str) -> Result<Words, String> {
    let words: Words = line.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() { Err("is empty".to_owned()) } else { Ok(words) }
}

/// A program of somebody else's: its name, and the command that starts it.
fn guest(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, line) = text.split_once('=').ok_or("must be NAME=COMMAND")?;
    Ok((name.to_owned(), words(line)?.to_vec()))
}

/// Minutes, as milliseconds.
fn millis(text: &str) -> Result<u64, String> {
    let minutes: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    let millis = (minutes * 60_000.0).round();
    match (MIN_MILLIS as f64..=MAX_MILLIS as f64).contains(&millis) {
        true => Ok(millis as u64),
        false => {
            let (least, most) = (MIN_MILLIS as f64 / 6e4, MAX_MILLIS as f64 / 6e4);
            Err(format!("must be from {least} to {most}"))
        }
    }
}

/// Runs `nudge chaos`.
pub(crate) async fn run(verb: ChaosVerb, json: bool) -> Result<(), Failure> {
    let (plan, plan_out, common) = match verb {
        ChaosVerb::Run(RunArgs { seed, minutes, replicas, with, plan_out, common }) => {
            let (seed, count) = (seed.unwrap_or_else(a_new_seed), with.len());
            let with: BTreeMap<_, _> = with.into_iter().collect();
            if with.len() < count {
                return Err(Failure::Usage("--with: each name once".to_owned()));
            }
            let plan = Plan::generate_with(seed, minutes, common.databases(), replicas, with);
            (plan.map_err(|why| Failure::Usage(format!("--with: {why}")))?, plan_out, common)
        }
        ChaosVerb::Replay(ReplayArgs { plan, common }) => (Plan::read(&plan)?, None, common),
    };
    plan.check_on(common.databases())?;
    nudge_runtime::private::keep_new_files();
    nudge_runtime::files::allow_many();
    let data_dir = common.data_dir.clone().map(empty).transpose()?;
    let stop = signals::stop();
    let exe = std::env::current_exe().map_err(|error| {
        Failure::failed(format!("cannot find this program's own path: {error}"))
    })?;
    let talk = Talk::named("chaos");
    let nats = stop.run_until_cancelled(nats::find(&exe, &talk)).await;
    talk.done();
    let nats = nats.unwrap_or_else(|| Err(interrupted()))?;
    let server = stop.run_until_cancelled(common.start_server(&talk)).await;
    talk.done();
    let server = server.unwrap_or_else(|| Err(interrupted()))?;
    let (data_dir, temporary) = match data_dir {
        Some(path) => (path, false),
        None => (temporary_directory(plan.seed)?, true),
    };
    let data = DataDir::lock(&data_dir, false)?;
    let data_dir = data.path().to_owned();
    let kept_plan = plan_out.clone().unwrap_or_else(|| data_dir.join(PLAN_FILE));
    let result = async {
        write_plan(&plan, &kept_plan)?;
        let world = World::new(&exe, nats, data, server, &plan).await?;
        carry_out(&world, &plan, &common, &stop).await
    };
    let result = result.await;
    let keep = !temporary || !matches!(&result, Ok(report) if report.verdict == Verdict::Converged);
    if !keep && let Err(error) = fs::remove_dir_all(&data_dir) {
        eprintln!("cannot delete {}: {error}", data_dir.display());
    }
    match result {
        Ok(mut report) => {
            let plan = Some(kept_plan).filter(|_| keep || plan_out.is_some());
            report.kept(plan, Some(data_dir).filter(|_| keep), &common.again());
            print(&report, json)
        }
        Err(failure) => {
            eprintln!("chaos: data and logs are kept in {}", data_dir.display());
            Err(failure)
        }
    }
}

async fn carry_out(
    world: &World,
    plan: &Plan,
    common: &CommonArgs,
    stop: &CancellationToken,
) -> Result<Report, Failure> {
    let picture = Picture::new(plan.millis, world.subscribers().len());
    let services: Vec<_> = plan.cast().everyone().map(Who::name).collect();
    let services = services.join(", ");
    picture.say(&format!("seed {}: starting NATS, {services}", plan.seed));
    let patience = Duration::from_secs(common.heal_seconds);
    let run = Run { world, plan, databases: common.databases(), picture: &picture, patience };
    let work = async {
        world.start().await?;
        Ok(run.carry_out().await)
    };
    let result = stop.run_until_cancelled(work).await;
    picture.done();
    picture.tell("stopping everything");
    world.stop().await;
    result.unwrap_or_else(|| Err(interrupted()))
}

fn interrupted() -> Failure {
    Failure::failed("interrupted: nothing was compared")
}

fn print(report: &Report, json: bool) -> Result<(), Failure> {
    match json {
        true => output::json(report)?,
        false => report.lines().iter().try_for_each(output::line)?,
    }
    match report.verdict {
        Verdict::Converged => Ok(()),
        Verdict::NotTested => Err(Failure::NotTested(report.verdict_line())),
        _ => Err(Failure::failed(report.verdict_line())),
    }
}

fn write_plan(plan: &Plan, path: &Path) -> Result<(), Failure> {
    fs::write(path, plan.to_json())
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}

fn a_new_seed() -> u64 {
    let now = nudge_runtime::clock::now().unix_micros();
    // Short enough to be typed again.
    Random::stream(now.unsigned_abs(), 0).below(1_000_000)
}

/// Checks that a directory is empty or does not exist.
fn empty(path: PathBuf) -> Result<PathBuf, Failure> {
    let holds_something = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some());
    match holds_something {
        true => {
            let path = path.display();
            Err(Failure::failed(format!(
                "{path} (--data-dir) is not empty: chaos starts from nothing"
            )))
        }
        false => Ok(path),
    }
}

/// Makes a new private directory.
fn temporary_directory(seed: u64) -> Result<PathBuf, Failure> {
    let name = format!("nudge-chaos-{seed}-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let made = DirBuilder::new().mode(0o700).create(&path);
    let failed =
        |error| Failure::failed(format!("cannot create {} (--data-dir): {error}", path.display()));
    made.map_err(failed)?;
    Ok(path)
}

#[cfg(test)]
mod tests;
