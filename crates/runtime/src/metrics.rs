//! What `/metrics` shows, and kinds of metrics that the library does not have.
//!
//! A HELP text says what a metric means and, after [`BAD`], what a bad value means. `docs/metrics.md` is made of them.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use nudge_protocol::Timestamp;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, TypedMetric, histogram::Histogram},
    registry::Registry,
};

use crate::{Problem, clock};

/// In a HELP text, it separates what the metric means from what a bad value means.
pub const BAD: &str = "; bad: ";

/// The media type of `/metrics`.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A moment, or none: shown in seconds since the Unix epoch, 0 for none. Cloning is cheap and shares it.
///
/// ```
/// use nudge_protocol::Timestamp;
/// use nudge_runtime::metrics::Moment;
///
/// let progressed = Moment::default();
/// assert_eq!(progressed.get(), None);
/// progressed.set(Some(Timestamp::from_unix_micros(1_500_000)));
/// assert_eq!(progressed.get(), Some(Timestamp::from_unix_micros(1_500_000)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Moment(Arc<AtomicI64>);

impl Moment {
    /// Sets it.
    pub fn set(&self, moment: Option<Timestamp>) {
        self.0.store(moment.map_or(0, Timestamp::unix_micros), Relaxed);
    }

    /// What was set last.
    pub fn get(&self) -> Option<Timestamp> {
        let micros = self.0.load(Relaxed);
        (micros != 0).then(|| Timestamp::from_unix_micros(micros))
    }
}

impl TypedMetric for Moment {
    const TYPE: MetricType = MetricType::Gauge;
}

impl EncodeMetric for Moment {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&(self.0.load(Relaxed) as f64 / 1e6))
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// How long something has lasted: shown in seconds at the time of the scrape, 0 if nothing does. So it goes on rising even
/// if whoever sets it stands still. Cloning is cheap and shares it.
#[derive(Clone, Debug, Default)]
pub struct Age(Moment);

impl Age {
    /// Sets since when it lasts.
    pub fn since(&self, moment: Option<Timestamp>) {
        self.0.set(moment);
    }

    /// Its value now, in seconds.
    pub fn seconds(&self) -> f64 {
        self.0.get().map_or(0.0, |since| clock::now().seconds_since(since).max(0.0))
    }
}

impl TypedMetric for Age {
    const TYPE: MetricType = MetricType::Gauge;
}

impl EncodeMetric for Age {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.seconds())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// A histogram of durations in seconds: 1 ms to about 30 s, then everything slower.
pub fn durations() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.001, 2.0, 16))
}

/// The answer of `/metrics`.
///
/// # Errors
/// If a metric cannot be written, which none of this project does.
pub fn answer(registry: &Registry) -> Result<Response, Problem> {
    let mut text = String::new();
    encode(&mut text, registry).map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], together(&text)).into_response())
}

/// The series of each name together, as OpenMetrics requires. The library repeats a name, with its description, for each
/// entity.
fn together(text: &str) -> String {
    let mut places = HashMap::new();
    let mut families: Vec<(String, String)> = Vec::new();
    let mut place = None;
    for line in text.split_inclusive('\n').filter(|line| *line != "# EOF\n") {
        if let Some(described) = line.strip_prefix("# HELP ") {
            let name = described.split(' ').next().unwrap_or_default();
            place = Some(*places.entry(name).or_insert_with(|| {
                families.push(Default::default());
                families.len() - 1
            }));
        }
        let Some((head, series)) = place.map(|place| &mut families[place]) else { continue };
        match line.starts_with('#') {
            false => series.push_str(line),
            true if series.is_empty() => head.push_str(line),
            true => {}
        }
    }
    let families = families.into_iter().map(|(head, series)| head + &series);
    families.chain(["# EOF\n".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[tokio::test]
    async fn the_series_of_a_name_stand_together_under_one_description() {
        let mut registry = Registry::default();
        for entity in ["store", "review"] {
            let label = [("entity".into(), entity.into())];
            let registry = registry.sub_registry_with_labels(label.into_iter());
            registry.register("nudge_a", "A", Counter::<u64>::default());
            registry.register("nudge_b_seconds", "B", Moment::default());
        }
        let Ok(answer) = answer(&registry) else { panic!("it is written") };
        let text = axum::body::to_bytes(answer.into_body(), 10_000).await.unwrap();
        let expected = "# HELP nudge_a A.\n# TYPE nudge_a counter\n\
            nudge_a_total{entity=\"store\"} 0\nnudge_a_total{entity=\"review\"} 0\n\
            # HELP nudge_b_seconds B.\n# TYPE nudge_b_seconds gauge\n\
            nudge_b_seconds{entity=\"store\"} 0.0\nnudge_b_seconds{entity=\"review\"} 0.0\n# EOF\n";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }

    #[test]
    fn an_age_rises_by_itself_and_is_zero_when_nothing_lasts() {
        let age = Age::default();
        assert_eq!(age.seconds(), 0.0);
        age.since(Some(Timestamp::from_unix_micros(clock::now().unix_micros() - 5_000_000)));
        assert!((5.0..60.0).contains(&age.seconds()), "{}", age.seconds());
        // A clock that was set back.
        age.since(Some(Timestamp::from_unix_micros(clock::now().unix_micros() + 5_000_000)));
        assert_eq!(age.seconds(), 0.0);
    }
}
