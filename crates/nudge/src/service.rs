//! The services, within this program: `nudge service search` does what the program `search` does.
//!
//! `nudge dev` and `nudge chaos` use it to run the services, so they need no other program.

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
    /// The service's name and arguments
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

/// Runs the service until it is told to stop.
pub(crate) async fn run(ServiceArgs { words }: ServiceArgs) -> ExitCode {
    match words.first().and_then(|name| Service::named(name.to_str()?)) {
        Some(Service::StoreInfo) => store_info::program(words).await,
        Some(Service::Search) => search::service().run_with(words).await,
        Some(Service::Review) => review::service().run_with(words).await,
        Some(Service::Storefront) => storefront::service().run_with(words).await,
        Some(Service::Favourites) => favourites::service().run_with(words).await,
        Some(Service::Ads) => ads::service().run_with(words).await,
        None => {
            let names = Service::ALL.map(Service::name).join(", ");
            Failure::Usage(format!("the services are {names}")).report()
        }
    }
}
