//! `nudge dead-letters`: what subscribers could not apply.

use clap::{Args, Subcommand};
use nudge_protocol::{
    EntityId, EntityName, Timestamp,
    admin::{DeadLetter, DeadLetterPage},
};
use reqwest::Method;
use serde::Serialize;
use serde_json::json;

use super::wait::subscribers;
use crate::{
    client::{Api, Service, segment},
    failure::Failure,
    output::{self, duration},
};

const PATH: &str = "/nudge/v1/dead-letters";
/// Rows asked for at a time.
const PAGE_ROWS: usize = 500;
/// Most rows that are listed of one subscriber.
const MAX_ROWS: usize = 10_000;
/// Widest error that the table shows, in characters.
const MAX_ERROR_CHARS: usize = 100;

/// Verbs of `nudge dead-letters`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersVerb {
    /// List them, with those that are still tried again by themselves
    Ls(Which),
    /// Try again: they go back on the work queue
    Replay(Chosen),
    /// Give up on them; a later change of the entity is applied as usual
    Discard(Chosen),
}

/// Which rows.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// Whose
    #[arg(long, value_name = "WHO", default_value = "all", value_parser = ["search", "review", "all"])]
    subscriber: String,
    /// Only of this kind of entity
    entity: Option<EntityName>,
    /// Only this one
    id: Option<EntityId>,
}

/// Which rows, chosen on purpose.
#[derive(Args, Clone, Debug)]
pub(crate) struct Chosen {
    #[command(flatten)]
    which: Which,
    /// Every row that ls shows
    #[arg(long, conflicts_with = "id")]
    all: bool,
}

/// A row, and whose it is.
#[derive(Clone, Debug, Serialize)]
struct Row {
    subscriber: &'static str,
    #[serde(skip)]
    service: Service,
    #[serde(flatten)]
    letter: DeadLetter,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Replay,
    Discard,
}

/// Runs a verb of `nudge dead-letters`.
pub(crate) async fn run(api: Api, verb: DeadLettersVerb, json: bool) -> Result<(), Failure> {
    match verb {
        DeadLettersVerb::Ls(which) => {
            let rows = list(&api, &which).await?;
            match json {
                true => rows.iter().try_for_each(output::json),
                false => show(&rows, nudge_runtime::clock::now()).iter().try_for_each(output::line),
            }
        }
        DeadLettersVerb::Replay(chosen) => act(&api, Action::Replay, chosen, json).await,
        DeadLettersVerb::Discard(chosen) => act(&api, Action::Discard, chosen, json).await,
    }
}

async fn list(api: &Api, which: &Which) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for service in subscribers(&which.subscriber) {
        rows.extend(list_one(api, service).await?);
    }
    rows.retain(|Row { letter, .. }| {
        which.entity.as_ref().is_none_or(|entity| *entity == letter.entity)
            && which.id.as_ref().is_none_or(|id| *id == letter.id)
    });
    Ok(rows)
}

async fn list_one(api: &Api, service: Service) -> Result<Vec<Row>, Failure> {
    let mut rows: Vec<Row> = Vec::new();
    let mut query = vec![("limit", PAGE_ROWS.to_string())];
    while rows.len() < MAX_ROWS {
        let request = api.request(Method::GET, service, PATH).query(&query);
        let page: DeadLetterPage = api.json(service, request).await?;
        let named = |letter| Row { subscriber: service.name(), service, letter };
        rows.extend(page.items.into_iter().map(named));
        let Some(next) = page.next else { break };
        query.truncate(1);
        query.extend([("entity", next.entity.to_string()), ("after", next.after.to_string())]);
    }
    Ok(rows)
}

fn show(rows: &[Row], now: Timestamp) -> Vec<String> {
    if rows.is_empty() {
        return vec!["no dead letters".to_owned()];
    }
    let heading = ["subscriber", "entity", "id", "attempts", "last tried", "next", "error"];
    let mut table = vec![heading.map(str::to_owned).to_vec()];
    for Row { subscriber, letter, .. } in rows {
        let error: String = letter.error.chars().take(MAX_ERROR_CHARS).collect();
        table.push(vec![
            (*subscriber).to_owned(),
            letter.entity.to_string(),
            letter.id.to_string(),
            letter.attempts.to_string(),
            letter
                .last_failed_at
                .map_or_else(String::new, |at| format!("{} ago", duration(now.seconds_since(at)))),
            letter.next_at.map_or_else(
                || "only by replay".to_owned(),
                |at| format!("in {}", duration(at.seconds_since(now))),
            ),
            error.replace(char::is_control, " "),
        ]);
    }
    output::table(&table)
}

async fn act(api: &Api, action: Action, chosen: Chosen, json: bool) -> Result<(), Failure> {
    let which = &chosen.which;
    if which.id.is_none() && !chosen.all {
        let line = "say which: an entity and an id, such as `store 42`, or --all";
        return Err(Failure::Usage(line.into()));
    }
    let rows = list(api, which).await?;
    if rows.is_empty() && which.id.is_some() {
        return Err(Failure::failed("there is no such dead letter"));
    }
    let done = match action {
        Action::Replay => "replayed",
        Action::Discard => "discarded",
    };
    for Row { subscriber, service, letter: DeadLetter { entity, id, .. } } in &rows {
        let path = format!("{PATH}/{entity}/{}", segment(id)?);
        let request = match action {
            Action::Replay => api.request(Method::POST, *service, &format!("{path}/replay")),
            Action::Discard => api.request(Method::DELETE, *service, &path),
        };
        api.expect(*service, request).await?;
        match json {
            true => output::json(&json!({
                "result": done, "subscriber": subscriber, "entity": entity, "id": id,
            }))?,
            false => output::line(format!("{done} {entity} {id} at {subscriber}"))?,
        }
    }
    if rows.is_empty() && !json {
        output::line("no dead letters")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
