//! The services, in this one program: `nudge service search` is what the program `search` is.
//!
//! `nudge dev` and `nudge chaos` start themselves with it, so that one program is all that they need.

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::Args;
use nudge_testbed::program::{Launch, Output};

use crate::{client::Service, failure::Failure};

/// The hidden verb.
pub(crate) const VERB: &str = "service";

/// `nudge service NAME …`.
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct ServiceArgs {
    /// The service's name, and whatever its program is told
    #[arg(
        value_name = "NAME",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<OsString>,
}

/// How a service is started by this program, `exe`.
pub(crate) fn launch(service: Service, exe: &Path, output: Output) -> Launch {
    let mut launch = Launch::new(service.name(), exe, output);
    launch.args = vec![VERB.into(), service.name().into()];
    launch
}

/// Is the service until it is told to stop.
pub(crate) async fn run(ServiceArgs { words }: ServiceArgs) -> ExitCode {
    match words.first().and_then(|name| Service::named(name.to_str()?)) {
        Some(Service::StoreInfo) => store_info::program(words).await,
        Some(Service::Search) => search::service().run_with(words).await,
        Some(Service::Review) => review::service().run_with(words).await,
        None => {
            let names = Service::ALL.map(Service::name).join(", ");
            Failure::Usage(format!("there are the services {names}")).report()
        }
    }
}
