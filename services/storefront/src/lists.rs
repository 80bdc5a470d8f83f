//! Lists of stores: which ones a source chose, or what is at hand while it cannot be asked.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    time::Duration,
};

use nudge_protocol::{EntityId, Timestamp};
use nudge_runtime::{clock, problem::FieldError};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::{
    question::Question,
    source::{Chosen, NoAnswer, Reason, Sources},
    view::View,
};

/// Most answers that are remembered: those to the questions that were asked last for the first time. Of at most 100 IDs of
/// 200 bytes each, so 20 MB.
pub const MAX_REMEMBERED: usize = 1_000;

/// Where the IDs of a list come from while their source cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema, async_graphql::Enum)]
#[serde(rename_all = "lowercase")]
#[graphql(name = "FallbackBasis")]
#[schema(as = FallbackBasis)]
pub enum Basis {
    /// The source's last answer to the same question.
    Remembered,
    /// The stores of the local view that match the filters, by name.
    View,
    /// Nothing is at hand: the list is empty.
    Nothing,
}

/// Says that a list does not come from its source now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Fallback {
    /// Why.
    pub reason: Reason,
    /// What happened, for people.
    pub detail: String,
    /// Where the IDs come from instead.
    pub basis: Basis,
    /// How old that is, in milliseconds: since the source gave these IDs, or since this service's view was last known to
    /// hold everything that its owners had announced. Null if there is nothing, or it is not known.
    #[schema(required)]
    pub age_ms: Option<u64>,
    /// Whether more stores match than are listed, which cannot be continued now. `next` repeats the place that was asked
    /// for if that page is not at hand.
    pub cut_off: bool,
}

/// The IDs of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In order.
    pub ids: Vec<EntityId>,
    /// Where the next page begins.
    pub next: Option<String>,
    /// Set if the source could not be asked.
    pub fallback: Option<Fallback>,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The source refuses what was asked for.
    #[error("the source refuses these parameters")]
    Refused(Vec<FieldError>),
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

/// Finds lists of stores.
pub struct Lists {
    /// The local view.
    pub view: View,
    sources: Sources,
    current_at: Box<dyn Fn() -> Option<Timestamp> + Send + Sync>,
    remembered: Mutex<Remembered>,
}

impl fmt::Debug for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lists").field("view", &self.view).finish_non_exhaustive()
    }
}

impl Lists {
    /// Lists from these sources, with this view to fall back to. `current_at` returns when the view was last known to hold
    /// everything that its owners had announced.
    pub fn new(
        view: View,
        sources: Sources,
        current_at: impl Fn() -> Option<Timestamp> + Send + Sync + 'static,
    ) -> Self {
        let current_at = Box::new(current_at);
        Self { view, sources, current_at, remembered: Mutex::default() }
    }

    /// The IDs that the question's source chooses. If it fails, or is late, those that are at hand.
    ///
    /// # Errors
    /// If the source refuses the question, or the database fails.
    pub async fn find(&self, question: Question) -> Result<Listing, Failure> {
        match self.sources.ask(&question).await {
            Ok(chosen) => {
                let Chosen { ids, next } = chosen.clone();
                self.remembered.lock().put(question, chosen, Instant::now());
                Ok(Listing { ids, next, fallback: None })
            }
            Err(NoAnswer::Refused(errors)) => Err(Failure::Refused(errors)),
            Err(NoAnswer::Failed(reason, detail)) => {
                self.fall_back(&question, reason, detail).await.map_err(Failure::Database)
            }
        }
    }

    async fn fall_back(
        &self,
        question: &Question,
        reason: Reason,
        detail: String,
    ) -> Result<Listing, sqlx::Error> {
        let listing = |ids, next, basis, age: Option<Duration>, cut_off| {
            let age_ms = age.map(|age| age.as_millis() as u64);
            let fallback = Fallback { reason, detail, basis, age_ms, cut_off };
            Listing { ids, next, fallback: Some(fallback) }
        };
        let remembered = self.remembered.lock().get(question, Instant::now());
        if let Some((Chosen { ids, next }, age)) = remembered {
            return Ok(listing(ids, next, Basis::Remembered, Some(age), false));
        }
        match (&question.filter, &question.place) {
            (Some(filter), None) => {
                let mut ids = self.view.find(filter, question.limit + 1).await?;
                let cut_off = ids.len() > question.limit;
                ids.truncate(question.limit);
                Ok(listing(ids, None, Basis::View, self.view_age(), cut_off))
            }
            // The view knows neither what a user keeps, nor where in its own order a source's page begins.
            (_, place) => {
                Ok(listing(Vec::new(), place.clone(), Basis::Nothing, None, place.is_some()))
            }
        }
    }

    fn view_age(&self) -> Option<Duration> {
        let micros = clock::now().unix_micros() - (self.current_at)()?.unix_micros();
        Some(Duration::from_micros(micros.max(0).unsigned_abs()))
    }
}

/// The last answers of the sources, as many as there is room for. What was asked first for the first time is forgotten
/// first.
#[derive(Debug, Default)]
struct Remembered {
    answers: HashMap<Question, (Chosen, Instant)>,
    order: VecDeque<Question>,
}

impl Remembered {
    fn put(&mut self, question: Question, chosen: Chosen, now: Instant) {
        if self.answers.insert(question.clone(), (chosen, now)).is_some() {
            return;
        }
        self.order.push_back(question);
        if self.order.len() > MAX_REMEMBERED
            && let Some(first) = self.order.pop_front()
        {
            self.answers.remove(&first);
        }
    }

    /// The last answer, and how old it is.
    fn get(&self, question: &Question, now: Instant) -> Option<(Chosen, Duration)> {
        let (chosen, at) = self.answers.get(question)?;
        Some((chosen.clone(), now - *at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::{Parameters, Source};

    #[test]
    fn the_last_answers_are_remembered_and_no_more_of_them_than_there_is_room_for() {
        let ask = |n: usize| {
            let q = Some(format!("q{n}"));
            let parameters = Parameters { q, ..Parameters::default() };
            Question::new(Source::Search, parameters, 20).unwrap()
        };
        let answer = |next: &str| Chosen { ids: Vec::new(), next: Some(next.to_owned()) };
        let (mut remembered, now) = (Remembered::default(), Instant::now());
        for n in 0..=MAX_REMEMBERED {
            remembered.put(ask(n), answer("first"), now);
        }
        remembered.put(ask(1), answer("second"), now + Duration::from_secs(1));
        let later = now + Duration::from_secs(3);
        assert_eq!(remembered.get(&ask(0), later), None);
        let found = remembered.get(&ask(1), later).unwrap();
        assert_eq!(found, (answer("second"), Duration::from_secs(2)));
        assert_eq!(remembered.get(&ask(MAX_REMEMBERED), later).unwrap().1, later - now);
        assert_eq!((remembered.answers.len(), remembered.order.len()), (1_000, 1_000));
    }
}
