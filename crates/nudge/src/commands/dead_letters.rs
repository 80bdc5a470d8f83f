//! `nudge dead-letters`: what subscribers could not apply.

use clap::{Args, Subcommand};
use nudge_protocol::{
    EntityId, EntityName, Timestamp,
    admin::{DeadLetter, DeadLetterPage, NextDeadLetter},
};
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::{
    client::{Api, refusal, segment},
    failure::Failure,
    output::{self, duration},
    peers::Peer,
    roles,
};

const PATH: &str = "/nudge/v1/dead-letters";
/// Rows asked for at a time.
const PAGE_ROWS: usize = 500;
/// Most rows of one subscriber that `ls` lists.
const MAX_ROWS: usize = 10_000;
/// Most failures of single rows that are printed.
const MAX_SHOWN_FAILURES: usize = 20;
/// Widest error that the table shows, in characters.
const MAX_ERROR_CHARS: usize = 100;

/// Verbs of `nudge dead-letters`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersVerb {
    /// List them, including those that are still retried automatically
    Ls(Which),
    /// Retry: put them back on the work queue
    Replay(Chosen),
    /// Drop them; a later change of the entity is applied as usual
    Discard(Chosen),
}

/// Which rows.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// Subscriber
    #[arg(long, value_name = "WHO", default_value = "all")]
    subscriber: String,
    /// Only this kind of entity
    entity: Option<EntityName>,
    /// Only this ID
    id: Option<EntityId>,
}

/// Which rows, chosen on purpose.
#[derive(Args, Clone, Debug)]
pub(crate) struct Chosen {
    #[command(flatten)]
    which: Which,
    /// All that ls shows
    #[arg(long, conflicts_with = "id")]
    all: bool,
}

/// A row and its subscriber.
#[derive(Clone, Debug, Serialize)]
struct Row {
    subscriber: &'static str,
    #[serde(skip)]
    peer: Peer,
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
        DeadLettersVerb::Ls(which) => ls(&api, &which, json).await,
        DeadLettersVerb::Replay(chosen) => act(&api, Action::Replay, chosen, json).await,
        DeadLettersVerb::Discard(chosen) => act(&api, Action::Discard, chosen, json).await,
    }
}

async fn ls(api: &Api, which: &Which, json: bool) -> Result<(), Failure> {
    let (mut rows, mut more) = (Vec::new(), Vec::new());
    let followers = which.followers(api).await?;
    for peer in &followers {
        let mut pages = Pages::new(which, *peer);
        let mut listed = 0;
        while let Some(page) = pages.next(api).await? {
            listed += page.len();
            rows.extend(page);
            if listed >= MAX_ROWS && !pages.is_over() {
                more.push(peer.name());
                break;
            }
        }
    }
    match json {
        true => rows.iter().try_for_each(output::json)?,
        false if rows.is_empty() => output::line(none(&followers))?,
        false => show(&rows, nudge_runtime::clock::now()).iter().try_for_each(output::line)?,
    }
    match more.is_empty() {
        true => Ok(()),
        false => {
            let more = more.join(" and ");
            Err(Failure::failed(format!("{more} has more than these {MAX_ROWS}")))
        }
    }
}

/// Says that nothing was found, and where.
fn none(asked: &[Peer]) -> String {
    format!("no dead letters at {}", roles::list(asked))
}

impl Which {
    /// The subscribers to ask: those that follow the entity.
    async fn followers(&self, api: &Api) -> Result<Vec<Peer>, Failure> {
        roles::followers(api, &self.subscriber, self.entity.as_ref()).await
    }

    fn holds(&self, letter: &DeadLetter) -> bool {
        self.entity.as_ref().is_none_or(|entity| *entity == letter.entity)
            && self.id.as_ref().is_none_or(|id| *id == letter.id)
    }
}

/// One subscriber's rows, page by page.
struct Pages<'a> {
    which: &'a Which,
    peer: Peer,
    /// Where the next page begins; none after the last.
    next: Option<Option<NextDeadLetter>>,
}

impl<'a> Pages<'a> {
    fn new(which: &'a Which, peer: Peer) -> Self {
        Self { which, peer, next: Some(None) }
    }

    fn is_over(&self) -> bool {
        self.next.is_none()
    }

    /// The rows that are meant of the next page.
    async fn next(&mut self, api: &Api) -> Result<Option<Vec<Row>>, Failure> {
        let Some(begin) = self.next.take() else {
            return Ok(None);
        };
        let mut query = vec![("limit", PAGE_ROWS.to_string())];
        match begin {
            Some(next) => {
                query.extend([
                    ("entity", next.entity.to_string()),
                    ("after", next.after.to_string()),
                ]);
            }
            None => {
                query.extend(self.which.entity.iter().map(|entity| ("entity", entity.to_string())))
            }
        }
        let request = api.request(Method::GET, self.peer, PATH).query(&query);
        let page: DeadLetterPage = api.json(self.peer, request).await?;
        self.next = page.next.map(Some);
        let (peer, which) = (self.peer, self.which);
        let meant = page.items.into_iter().filter(|letter| which.holds(letter));
        let named = |letter| Row { subscriber: peer.name(), peer, letter };
        Ok(Some(meant.map(named).collect()))
    }
}

fn show(rows: &[Row], now: Timestamp) -> Vec<String> {
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
        let line = "give an entity and an ID, such as `store 42`, or --all";
        return Err(Failure::Usage(line.into()));
    }
    let (mut done, mut failures) = (0_u64, Vec::new());
    let followers = which.followers(api).await?;
    for peer in &followers {
        let mut pages = Pages::new(which, *peer);
        // A page goes on after its last id, so that what is removed or comes back meanwhile skips nothing.
        while let Some(page) = pages.next(api).await? {
            for row in page {
                let answer = action.ask(api, &row).await?;
                match answer.status() {
                    // It was applied, or removed, since the page was read.
                    StatusCode::NOT_FOUND => {}
                    status if status.is_success() => {
                        done += 1;
                        action.tell(&row, json)?;
                    }
                    // It would say so of each.
                    StatusCode::SERVICE_UNAVAILABLE => return Err(refusal(*peer, answer).await),
                    _ => failures.push(format!(
                        "{}: {}",
                        row.letter.id,
                        refusal(*peer, answer).await
                    )),
                }
            }
        }
    }
    if !failures.is_empty() {
        let shown = failures[..failures.len().min(MAX_SHOWN_FAILURES)].join("; ");
        let failed = failures.len();
        return Err(Failure::failed(format!("{done} {}, {failed} failed: {shown}", action.done())));
    }
    match done {
        0 if which.id.is_some() => Err(Failure::failed("there is no such dead letter")),
        0 if !json => output::line(none(&followers)),
        _ => Ok(()),
    }
}

impl Action {
    fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Discard => "discarded",
        }
    }

    async fn ask(self, api: &Api, row: &Row) -> Result<Response, Failure> {
        let Row { peer, letter: DeadLetter { entity, id, .. }, .. } = row;
        let by_query = |verb: &str| {
            let request = api.request(Method::POST, *peer, &format!("{PATH}/{verb}"));
            request.query(&[("entity", entity.as_str()), ("id", id.as_str())])
        };
        let path = segment(id).map(|id| format!("{PATH}/{entity}/{id}"));
        let request = match (self, path) {
            (Self::Replay, Ok(path)) => api.request(Method::POST, *peer, &format!("{path}/replay")),
            (Self::Discard, Ok(path)) => api.request(Method::DELETE, *peer, &path),
            // No path can hold it.
            (Self::Replay, Err(_)) => by_query("replay"),
            (Self::Discard, Err(_)) => by_query("discard"),
        };
        api.send(*peer, request).await
    }

    fn tell(self, row: &Row, json: bool) -> Result<(), Failure> {
        let Row { subscriber, letter: DeadLetter { entity, id, .. }, .. } = row;
        let done = self.done();
        match json {
            true => output::json(&json!({
                "result": done, "subscriber": subscriber, "entity": entity, "id": id,
            })),
            false => output::line(format!("{done} {entity} {id} at {subscriber}")),
        }
    }
}

#[cfg(test)]
mod tests;
