//! `nudge break`: breaks one thing of a running `nudge dev --chaos`, by the same requests as the drawer on its page.

use std::time::Duration;

use clap::Subcommand;
use nudge_runtime::clock;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    chaos::drawer::{
        Fault, Shown,
        http::{Healed, PATH},
    },
    client::{Api, refusal},
    failure::Failure,
    output::{self, duration},
    peers::Peer,
};

/// Longest wait for a console that need not be there.
const CONSOLE_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) const AFTER_HELP: &str = "\
Examples:
  nudge dev --chaos                                              first, in another terminal
  nudge break hold --service search --count 20 --seconds 10 --seed 7
  nudge break drop --service ads --next 5
  nudge break owner --answer refused --seconds 20
  nudge break edit --service search --id store-001 --row renamed
  nudge break heal

Everything heals by itself, after 120 s at the latest. The same seed makes the same choice.";

/// `nudge break …`.
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(crate) enum BreakVerb {
    #[command(flatten)]
    Fault(Fault),
    /// Heal everything now
    Heal,
    /// List what is broken
    Ls,
}

/// Runs `nudge break`.
pub(crate) async fn run(
    api: &Api,
    console: Peer,
    verb: BreakVerb,
    json: bool,
) -> Result<(), Failure> {
    let request = |method, path: &str| api.request(method, console, path);
    let shown = match verb {
        BreakVerb::Fault(fault) => {
            let request =
                request(Method::POST, &format!("{PATH}/{}", fault.kind())).json(&fault.body());
            answer(api, console, request).await?
        }
        BreakVerb::Ls => answer(api, console, request(Method::GET, PATH)).await?,
        BreakVerb::Heal => {
            let Healed { healed } = answer(api, console, request(Method::DELETE, PATH)).await?;
            return match json {
                true => output::json(&json!({ "healed": healed })),
                false => output::line(format!(
                    "healed: {healed}; subscribers compare with the owners now"
                )),
            };
        }
    };
    match json {
        true => output::json(&shown),
        false => lines(&shown).iter().try_for_each(output::line),
    }
}

/// What is broken on purpose by this console; nothing, if nothing can be or no console answers.
pub(crate) async fn broken(api: &Api, console: Peer) -> Vec<String> {
    let request = api.request(Method::GET, console, PATH);
    let shown: Result<Shown, _> = api.json(console, request.timeout(CONSOLE_TIMEOUT)).await;
    shown.map_or_else(|_| Vec::new(), |shown| told(&shown))
}

fn told(shown: &Shown) -> Vec<String> {
    let now = clock::now();
    let one = |told: &crate::chaos::drawer::Told| {
        let left = duration(told.until.seconds_since(now).max(0.0));
        format!("{}; heals by itself in {left} at the latest", told.words)
    };
    shown.broken.iter().map(one).collect()
}

fn lines(shown: &Shown) -> Vec<String> {
    match told(shown) {
        told if told.is_empty() => vec!["nothing is broken on purpose".to_owned()],
        told => told.iter().map(|one| format!("broken on purpose: {one}")).collect(),
    }
}

async fn answer<T: DeserializeOwned>(
    api: &Api,
    console: Peer,
    request: RequestBuilder,
) -> Result<T, Failure> {
    let response = api.send(console, request).await?;
    match response.status() {
        StatusCode::NOT_FOUND => {
            Err(Failure::failed("nothing can be broken there: start it by `nudge dev --chaos`"))
        }
        status if status.is_success() => api.body(console, response).await,
        _ => Err(refusal(console, response).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::drawer::MAX_SECONDS;

    #[test]
    fn the_help_names_the_limit() {
        assert!(AFTER_HELP.contains(&format!(" {MAX_SECONDS} s ")));
    }
}
