//! How single keys stand.

use std::{collections::HashMap, time::Duration};

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
};
use nudge_protocol::{
    EntityId, Object,
    admin::{DeadLetter, Key, KeyState, Keys, KeysRequest, MAX_KEYS},
};
use nudge_runtime::{Problem, body::Json};
use tokio::sync::oneshot;

use super::{Api, Place};
use crate::{
    subscriber::{Followed, Shared},
    work::look::{Look, Stands},
};

/// Longest wait for the work queue's answer.
const MAX_LOOK_WAIT: Duration = Duration::from_secs(2);

/// Show how single keys stand
///
/// For each ID, in order: what the read model has, whether anything is to be done, since when and why it is
/// not done yet, and how its last runs went. The work queue and the runs are those of this replica; the rest
/// is in the database. The work queue does not know keys that it has not taken in yet, which it does not
/// while the owner is down or it is full.
#[utoipa::path(post, path = "/keys/{entity}", operation_id = "keys", tag = "subscriber", params(
    ("entity" = nudge_protocol::EntityName, Path, description = "The kind of entity"),
), request_body = KeysRequest, responses(
    (status = 200, description = "How they stand", body = Keys),
    (status = 404, description = "This service does not follow the entity"),
    (status = 503, description = "The work queue did not answer in time, or the database is busy or unavailable"),
))]
pub(super) async fn keys(
    State(shared): Api,
    Place(place): Place,
    Json(Object(KeysRequest { ids })): Json<Object<KeysRequest>>,
) -> Result<axum::Json<Keys>, Problem> {
    if !(1..=MAX_KEYS).contains(&ids.len()) {
        return Err(Problem::field("ids", format!("must contain 1 to {MAX_KEYS} IDs")));
    }
    let followed = &shared.followed[place];
    // Before the tables are read: a key that leaves the queue has written them by then.
    let stands = shared.stands(followed, &ids).await?;
    let mut dead_letters: HashMap<EntityId, DeadLetter> = HashMap::new();
    for letter in followed.dead_letters.of(&ids).await? {
        dead_letters.insert(letter.id.clone(), letter);
    }
    let applied = followed.waiters.of(&ids).await?;
    let runs = followed.runs.of(&ids);
    let key = |(id, stands): (EntityId, Stands)| {
        let dead_letter = dead_letters.get(&id).cloned();
        let (state, work) = match stands {
            Some((state, work)) => (state, Some(work)),
            None => (in_the_table(dead_letter.as_ref()), None),
        };
        Key {
            state: Some(state),
            applied: applied.get(&id).copied(),
            work,
            dead_letter,
            runs: runs.get(&id).cloned().unwrap_or_default(),
            id,
        }
    };
    Ok(axum::Json(Keys { items: ids.into_iter().zip(stands).map(key).collect() }))
}

/// How a key stands that the work queue has nothing to do for.
fn in_the_table(dead_letter: Option<&DeadLetter>) -> KeyState {
    match dead_letter {
        None => KeyState::Idle,
        Some(DeadLetter { next_at: Some(_), .. }) => KeyState::Parked,
        Some(_) => KeyState::DeadLetter,
    }
}

impl Shared {
    /// How the work queue stands with these keys, in order.
    async fn stands(&self, followed: &Followed, ids: &[EntityId]) -> Result<Vec<Stands>, Problem> {
        let look = async {
            let (answer, answered) = oneshot::channel();
            followed.looks.send(Look { ids: ids.to_vec(), answer }).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(MAX_LOOK_WAIT, look).await {
            Ok(Some(stands)) => Ok(stands),
            Ok(None) => Err(self.stopping()),
            Err(_) => {
                let detail = "the work queue did not answer in time";
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
                    .with_header(header::RETRY_AFTER, HeaderValue::from_static("1")))
            }
        }
    }
}
