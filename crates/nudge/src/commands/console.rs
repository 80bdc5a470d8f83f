//! `nudge console`: the console page for services that run already.

use clap::Args;
use futures_util::future::join_all;
use nudge_protocol::admin::Status;
use nudge_runtime::{
    Broker,
    auth::{Admission, AuthArgs, Credentials},
    files, problem,
    secret::{self, Secret},
    serve,
};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::{
    client::Api,
    console,
    failure::Failure,
    output,
    peers::{self, Also, Peer, Wanted},
    roles, signals,
};

/// Arguments of `nudge console`.
#[derive(Args, Debug)]
pub(crate) struct ConsoleArgs {
    /// A service to show, an owner or a subscriber; can be given several times. Without it, those are shown that the
    /// other commands find: the demo's at --port-base, and those of --also
    #[arg(long = "service", value_name = "[NAME=]URL", value_parser = peers::wanted)]
    services: Vec<Wanted>,
    /// Port of 127.0.0.1 to listen on, 0 for any that is free; without it, the port base
    #[arg(long, env = "NUDGE_CONSOLE_PORT", value_name = "PORT")]
    port: Option<u16>,
    /// Also show whether this NATS server answers
    #[arg(long, env = "NATS_URL", value_name = "URL", hide_env_values = true, value_parser = secret::given(secret::any))]
    nats_url: Option<Secret>,
    /// Whom the page answers: with an issuer, it asks for a token, and sends that to the services
    #[command(flatten)]
    auth: AuthArgs,
}

/// Serves the page until told to stop.
pub(crate) async fn run(
    port_base: u16,
    also: &Also,
    credentials: &Credentials,
    args: ConsoleArgs,
) -> Result<(), Failure> {
    let stop = signals::stop();
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::failed(problem::chain(error));
    let admission = Admission::of(&args.auth).map_err(|error| failed(&error))?;
    let api = match args.services.is_empty() {
        true => peers::find(port_base, also, credentials).await?,
        false => {
            for Wanted { name, url } in &args.services {
                also.may_reach(name.as_deref().unwrap_or("--service"), url)?;
            }
            let api = Api::new(port_base).signing(credentials).with(Vec::new());
            let named = join_all(args.services.iter().map(|wanted| peer(&api, wanted))).await;
            let mut peers = Vec::new();
            peers::merge(&mut peers, named);
            peers::merge(&mut peers, also.peers()?);
            api.with(peers)
        }
    };
    let broker = match &args.nats_url {
        Some(url) => {
            also.may_reach("--nats-url", url.expose())?;
            let broker = Broker::connect_as_set(url.expose(), "nudge-console").await;
            Some(broker.map_err(|error| failed(&error))?)
        }
        None => None,
    };
    let address = ([127, 0, 0, 1], args.port.unwrap_or(port_base)).into();
    files::allow_many();
    let (listener, address) = serve::listen(address).await.map_err(|error| failed(&error))?;
    let shown = roles::list(api.peers());
    if !admission.asks() && asked_for_a_token(&api).await {
        output::line(
            "the services ask for tokens: give one that everybody here may use with --token-file, \
             or set AUTH_ISSUER and AUTH_JWKS, and the page asks each person for their own",
        )?;
    }
    let login = console::Login::asking(admission, address.port());
    let state = console::Console::new(api, broker, [].into(), None, stop.clone());
    let state = state.answering(login);
    output::line(format!("console: http://{address} shows {shown}; Ctrl-C stops it"))?;
    serve::serve(listener, console::router(state), stop).await;
    Ok(())
}

/// Whether a service refuses what it is asked without another token.
async fn asked_for_a_token(api: &Api) -> bool {
    let ask = |peer: &Peer| api.send(*peer, api.request(Method::GET, *peer, roles::STATUS_PATH));
    let answers = join_all(api.peers().iter().map(ask)).await;
    answers.iter().flatten().any(|answer| answer.status() == StatusCode::UNAUTHORIZED)
}

/// A service by the name that was given, else by the one that it gives itself, else by where it is.
async fn peer(api: &Api, wanted: &Wanted) -> Peer {
    let place = Peer::new(
        wanted.url.replace("http://", "").replace([':', '.', '[', ']'], "-"),
        &wanted.url,
    );
    let name = match &wanted.name {
        Some(name) => Some(name.clone()),
        None => own_name(api, place).await,
    };
    name.map_or(place, |name| Peer::new(name, &wanted.url))
}

/// What a service calls itself: in its status or, if it follows nothing, in its OpenAPI document.
async fn own_name(api: &Api, place: Peer) -> Option<String> {
    let get = |path| api.request(Method::GET, place, path);
    let status = api.json::<Status>(place, get(roles::STATUS_PATH)).await;
    let name = match status {
        Ok(status) => status.service,
        Err(_) => {
            let document: Value = api.json(place, get("/openapi.json")).await.ok()?;
            let title = document["info"]["title"].as_str()?;
            title.strip_prefix("Nudge: ").unwrap_or(title).to_owned()
        }
    };
    peers::is_name(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, routing::get};
    use serde_json::json;

    use super::*;
    use crate::{client::Service, stub};

    #[tokio::test]
    async fn a_service_is_called_what_it_calls_itself() {
        let owner = Router::new().route(
            "/openapi.json",
            get(async || Json(json!({"info": {"title": "Nudge: stations"}}))),
        );
        let map = Router::new()
            .route(roles::STATUS_PATH, get(async || Json(json!({"service": "charging-map"}))));
        let stubs = stub::start([(Service::StoreInfo, owner), (Service::Search, map)]).await;
        let name = async |service, given: &str| {
            let url = stubs.api.of(service).url();
            peer(&stubs.api, &peers::wanted(&format!("{given}{url}")).unwrap()).await.name()
        };
        assert_eq!(name(Service::StoreInfo, "").await, "stations");
        assert_eq!(name(Service::Search, "").await, "charging-map");
        assert_eq!(name(Service::Search, "mine=").await, "mine");
        let away = format!("127-0-0-1-{}", stubs.api.of(Service::Review).port());
        assert_eq!(name(Service::Review, "").await, away);
    }
}
