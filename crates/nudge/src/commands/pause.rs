//! `nudge pause` and `nudge resume`: a subscriber's intake and work.

use clap::Args;
use nudge_protocol::admin::Paused;
use reqwest::Method;
use serde_json::json;

use crate::{client::Api, failure::Failure, output, roles};

/// Arguments of `nudge pause` and `nudge resume`.
#[derive(Args, Debug)]
pub(crate) struct PauseArgs {
    /// The subscriber, or all
    #[arg(value_name = "WHO")]
    subscriber: String,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Stops intake and work.
    Pause,
    /// Lets them go on.
    Resume,
}

/// Runs `nudge pause` or `nudge resume`.
pub(crate) async fn run(
    api: Api,
    args: PauseArgs,
    action: Action,
    json: bool,
) -> Result<(), Failure> {
    let path = match action {
        Action::Pause => "/nudge/v1/pause",
        Action::Resume => "/nudge/v1/resume",
    };
    for peer in roles::followers(&api, &args.subscriber, None).await? {
        let Paused { paused } = api.json(peer, api.request(Method::POST, peer, path)).await?;
        let name = peer.name();
        match (json, paused) {
            (true, _) => output::json(&json!({ "subscriber": name, "paused": paused }))?,
            (false, true) => {
                output::line(format!("{name} is paused; nudge resume {name} lets it go on"))?
            }
            (false, false) => output::line(format!("{name} goes on"))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    };

    use axum::{
        Json, Router,
        routing::{get, post},
    };

    use super::*;
    use crate::{client::Service, stub};

    #[tokio::test]
    async fn the_named_subscriber_is_paused_and_goes_on() {
        let is_paused = Arc::new(AtomicBool::new(false));
        let set = |paused| {
            let is_paused = is_paused.clone();
            post(async move || {
                is_paused.store(paused, SeqCst);
                Json(json!({ "paused": paused }))
            })
        };
        let status = json!({"service": "search", "entities": [{"entity": "store"}]});
        let router = Router::new()
            .route("/nudge/v1/status", get(async move || Json(status)))
            .route("/nudge/v1/pause", set(true))
            .route("/nudge/v1/resume", set(false));
        let stub = stub::start([(Service::Search, router)]).await;
        for (action, expected) in [(Action::Pause, true), (Action::Resume, false)] {
            let args = PauseArgs { subscriber: "search".to_owned() };
            run(stub.api.clone(), args, action, false).await.unwrap();
            assert_eq!(is_paused.load(SeqCst), expected);
        }
        let args = PauseArgs { subscriber: "nobody".to_owned() };
        assert!(run(stub.api.clone(), args, Action::Pause, false).await.is_err());
    }
}
