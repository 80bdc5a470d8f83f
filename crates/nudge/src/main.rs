//! `nudge`: the command line of the demo.
//!
//! | module | what it holds |
//! |---|---|
//! | [`dev`] | runs everything, with a console |
//! | [`console`] | the page that shows it all, and its routes |
//! | [`chaos`] | runs everything under faults, and compares |
//! | [`service`] | runs one of the services |
//! | [`commands`] | the other verbs, which talk HTTP to the services |
//! | [`client`] | requests, with one-line errors |
//! | [`permissions`] | who may do what at NATS |
//! | [`peers`] | which services there are, and where |
//! | [`roles`] | which of them own or follow what |
//! | [`sse`] | server-sent events |
//! | [`why`] | one entity's story, for the command and the console |

mod chaos;
mod client;
mod commands;
mod console;
mod dev;
mod failure;
mod output;
mod peers;
mod permissions;
mod roles;
mod service;
mod signals;
mod sse;
#[cfg(test)]
mod stub;
mod why;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use nudge_runtime::{
    args::parse_or_exit,
    auth::Credentials,
    problem::chain,
    tls::{self, TlsArgs},
};

use client::NATS_PORT_OFFSET;
use commands::{
    audit, bench, breaking, conformance, console as show_console, dead_letters, nats_config, new,
    pause, resync, review, status, store, token, tombstones, wait, watch,
};
use failure::Failure;
use peers::Also;

/// With the system's own, an import takes a tenth longer.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Default for the first of the demo's ports.
const DEFAULT_PORT_BASE: u16 = 7_100;

const AFTER_HELP: &str = "\
Examples:
  nudge dev                                  run everything, until Ctrl-C
  nudge dev --database-url postgres://me@h/d the same, with the data in PostgreSQL
  nudge watch                                see changes arrive, in another terminal
  nudge store put 42 --open false --wait     edit a store, and see when subscribers apply it
  nudge wait store/42@1767225600000001       wait until all subscribers have that version
  nudge console --service http://127.0.0.1:7102   see services of your own in a browser
  nudge status                               show how the services are doing
  nudge why store/42                         why is this one late? what to do?
  nudge resync                               compare them with the owner now, and repair
  nudge audit                                how consistent they have been, in nines
  nudge new subscriber names --follow store  begin a service of your own
  nudge conformance --help                   try an owner in any language against the protocol
  nudge dev --auth                           ask everyone for a token: docs/security.md
  nudge dev --chaos                          and break single things by hand: see nudge break
  nudge chaos run --seed 1 --minutes 2       break things, and check that everything converges
  nudge bench drain --database sqlite        how fast is it, and how fast is what I use now?

Exit status: 0 done, 1 failed, 2 invalid command line, 3 timed out waiting, 4 a chaos run could not
be carried out.";

/// Update a store and watch the subscribers follow
#[derive(Debug, Parser)]
#[command(name = "nudge", version, after_help = AFTER_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args, Clone, Debug)]
struct Global {
    /// First port of the demo: console +0, store-info +1, search +2, review +3, storefront +4, favourites +5, ads +6, NATS +22
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        env = "NUDGE_PORT_BASE",
        value_name = "PORT",
        default_value_t = DEFAULT_PORT_BASE,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(u16::MAX - NATS_PORT_OFFSET)),
    )]
    port_base: u16,
    /// Print JSON, one value per line
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    #[command(flatten)]
    also: Also,
    /// File with the token to send to services that ask for one; `nudge token` makes some
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        env = "NUDGE_TOKEN_FILE",
        value_name = "PATH"
    )]
    token_file: Option<PathBuf>,
    /// File with the certificates (PEM) of the authorities that sign those of the services, instead of those that the
    /// system trusts
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        env = "NUDGE_CA_FILE",
        value_name = "PATH"
    )]
    ca_file: Option<PathBuf>,
    /// File with the certificate (PEM) to show to services that ask for one. Needs --key-file
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        env = "NUDGE_CERT_FILE",
        value_name = "PATH"
    )]
    cert_file: Option<PathBuf>,
    /// File with that certificate's private key (PEM)
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        env = "NUDGE_KEY_FILE",
        value_name = "PATH"
    )]
    key_file: Option<PathBuf>,
}

impl Global {
    fn credentials(&self) -> Result<Credentials, Failure> {
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(Failure::Usage("--cert-file and --key-file need each other".to_owned()));
        }
        let certificates = TlsArgs {
            tls_cert_file: self.cert_file.clone(),
            tls_key_file: self.key_file.clone(),
            tls_ca_file: self.ca_file.clone(),
            ..TlsArgs::default()
        };
        Credentials::in_files(self.token_file.as_deref(), &certificates).map_err(|error| {
            // It names settings as services are given them.
            let flags = [
                ("AUTH_TOKEN_FILE", "--token-file"),
                ("TLS_CA_FILE", "--ca-file"),
                ("TLS_CERT_FILE", "--cert-file"),
                ("TLS_KEY_FILE", "--key-file"),
            ];
            let said = chain(&error);
            let flag =
                |(of, flag): &(&str, &str)| Some(format!("{flag}{}", said.strip_prefix(of)?));
            Failure::Usage(flags.iter().find_map(flag).unwrap_or(said))
        })
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run NATS and all services in the foreground, with a console
    Dev(dev::DevArgs),
    /// Serve the console page for services that run already
    Console(show_console::ConsoleArgs),
    /// Read and edit stores
    #[command(subcommand)]
    Store(store::StoreVerb),
    /// Read and edit reviews
    #[command(subcommand)]
    Review(review::ReviewVerb),
    /// See each change arrive: the owner's commit, then each subscriber
    Watch(watch::WatchArgs),
    /// Wait until subscribers have applied a write
    Wait(wait::WaitArgs),
    /// Show how the services are doing
    Status(status::StatusArgs),
    /// Tell one entity's story: what everyone holds of it, why it is late, and what to do
    Why(commands::why::WhyArgs),
    /// Pause intake and work of a subscriber
    Pause(pause::PauseArgs),
    /// Let a paused subscriber go on
    Resume(pause::PauseArgs),
    /// Compare subscribers with the owner of what they follow now, and repair what differs
    Resync(resync::ResyncArgs),
    /// Report how consistent subscribers have been with owners, or certify it
    Audit(audit::AuditArgs),
    /// Try an owner, in any language, against docs/protocol.md
    Conformance(conformance::ConformanceArgs),
    /// Begin a service of your own: a subscriber or an owner that compiles, passes its tests and runs
    #[command(subcommand)]
    New(new::NewVerb),
    /// List, replay or discard what subscribers could not apply
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersVerb),
    /// List or flag tombstones of entities that the owner has no record of
    #[command(subcommand)]
    Tombstones(tombstones::TombstonesVerb),
    /// Make a token, and the key that signs it, for services that ask for one
    Token(token::TokenArgs),
    /// Write permissions for NATS, and a key for each service
    NatsConfig(nats_config::NatsConfigArgs),
    /// Break one thing of a `nudge dev --chaos` by hand, or heal everything
    #[command(subcommand)]
    Break(breaking::BreakVerb),
    /// Run everything under random faults and edits, and check that it converges
    #[command(subcommand)]
    Chaos(chaos::ChaosVerb),
    /// Measure how fast everything is, beside what people would use instead
    Bench(bench::BenchArgs),
    /// Run a service of the demo
    #[command(name = service::VERB, hide = true)]
    Service(service::ServiceArgs),
    /// Stop the children of a `nudge dev` or `nudge chaos` that was killed
    #[command(name = dev::guard::VERB, hide = true)]
    Guard,
}

fn main() -> ExitCode {
    #[cfg(feature = "otlp")]
    nudge_otlp::link();
    tls::install();
    let cli = parse_or_exit::<Cli>();
    // Without a runtime: the guard must work when everything else has gone wrong.
    if matches!(cli.verb, Verb::Guard) {
        nudge_testbed::program::guard::run();
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("cannot start: {error}")).report(),
    };
    let result = runtime.block_on(async {
        match cli.verb {
            Verb::Service(args) => Ok(service::run(args).await),
            verb => run(verb, cli.global).await.map(|()| ExitCode::SUCCESS),
        }
    });
    // A read of standard input may still be under way, and cannot be cancelled.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

async fn run(verb: Verb, global: Global) -> Result<(), Failure> {
    let credentials = match verb {
        // They send none, and the first may be about to make the file.
        Verb::Dev(_) | Verb::Chaos(_) | Verb::New(_) | Verb::Token(_) | Verb::Bench(_) => {
            Credentials::default()
        }
        _ => global.credentials()?,
    };
    let Global { port_base, json, also, .. } = global;
    match verb {
        Verb::Dev(args) => return dev::run(port_base, &also, args).await,
        Verb::Console(args) => {
            return show_console::run(port_base, &also, &credentials, args).await;
        }
        Verb::Chaos(verb) => return chaos::run(verb, json).await,
        Verb::Bench(args) => return bench::run(args, json).await,
        Verb::Break(verb) => {
            let api = client::Api::new(port_base).signing(&credentials);
            return breaking::run(&api, peers::console(port_base), verb, json).await;
        }
        Verb::Conformance(args) => {
            return conformance::run(args, &also, &credentials, json).await;
        }
        Verb::New(verb) => return new::run(verb, port_base, json),
        Verb::Token(args) => return token::run(&args, json),
        Verb::NatsConfig(args) => return nats_config::run(args, json),
        Verb::Guard | Verb::Service(_) => unreachable!("main handles these itself"),
        _ => {}
    }
    let api = peers::find(port_base, &also, &credentials).await?;
    match verb {
        Verb::Store(verb) => store::run(api, verb, json).await,
        Verb::Review(verb) => review::run(api, verb, json).await,
        Verb::Watch(args) => watch::run(api, args, json).await,
        Verb::Wait(args) => wait::run(api, args, json).await,
        Verb::Status(args) => status::run(api, &also, peers::console(port_base), args, json).await,
        Verb::Why(args) => commands::why::run(api, args, json).await,
        Verb::Pause(args) => pause::run(api, args, pause::Action::Pause, json).await,
        Verb::Resume(args) => pause::run(api, args, pause::Action::Resume, json).await,
        Verb::Resync(args) => resync::run(api, args, json).await,
        Verb::Audit(args) => audit::run(api, args, json).await,
        Verb::DeadLetters(verb) => dead_letters::run(api, verb, json).await,
        Verb::Tombstones(verb) => tombstones::run(api, verb, json).await,
        Verb::Dev(_)
        | Verb::Console(_)
        | Verb::Break(_)
        | Verb::Chaos(_)
        | Verb::Bench(_)
        | Verb::Conformance(_)
        | Verb::New(_)
        | Verb::Token(_)
        | Verb::NatsConfig(_)
        | Verb::Guard
        | Verb::Service(_) => unreachable!("they need no services"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_work_on_either_side_of_the_verb() {
        for line in [
            ["nudge", "--json", "--port-base=7300", "status"],
            ["nudge", "status", "--json", "--port-base=7300"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert!(cli.global.json && cli.global.port_base == 7_300);
        }
        assert!(Cli::try_parse_from(["nudge", "status", "--port-base", "65520"]).is_err());
    }
}
