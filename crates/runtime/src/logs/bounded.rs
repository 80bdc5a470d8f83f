//! Bounds how often the same line is logged, so that a fault that repeats a thousand times a second neither fills a disk
//! nor hides the other lines.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{Event, Level, Metadata, callsite::Identifier};
use tracing_subscriber::layer::{Context, Layer};

use crate::auth::admission::AUDIT;

/// The time in which at most [`MAX_LINES`] of the same kind are logged.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// Maximum number of lines of one place in the code in a [`WINDOW`].
const MAX_LINES: u32 = 50;

/// Lets the first lines of each place in the code through, and counts the others. What is more detailed than `info` is not
/// bounded: whoever asks for it wants all of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounded(Arc<Mutex<HashMap<Identifier, Said>>>);

#[derive(Debug)]
struct Said {
    /// The file and the line of the place.
    place: String,
    began: Instant,
    lines: u32,
    left_out: u64,
}

impl Bounded {
    fn may_say(&self, metadata: &Metadata<'_>, now: Instant) -> bool {
        let mut places = self.0.lock();
        let said = places.entry(metadata.callsite()).or_insert_with(|| Said {
            place: format!("{}:{}", metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0)),
            began: now,
            lines: 0,
            left_out: 0,
        });
        if now >= said.began + WINDOW {
            (said.began, said.lines) = (now, 0);
        }
        let may = said.lines < MAX_LINES;
        said.lines += u32::from(may);
        said.left_out += u64::from(!may);
        may
    }

    /// The places of which lines were left out since the last answer, and how many.
    fn left_out(&self) -> Vec<(String, u64)> {
        let mut places = self.0.lock();
        let left_out = |said: &mut Said| {
            let count = std::mem::take(&mut said.left_out);
            (count > 0).then(|| (said.place.clone(), count))
        };
        places.values_mut().filter_map(left_out).collect()
    }

    /// Logs how many lines were left out. Never returns.
    pub(crate) async fn report(self) {
        loop {
            tokio::time::sleep(WINDOW).await;
            for (place, lines) in self.left_out() {
                tracing::warn!(place, lines, "more lines of this kind were left out");
            }
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for Bounded {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // An audit log with gaps would be none.
        let whole = *metadata.level() > Level::INFO || metadata.target() == AUDIT;
        whole || self.may_say(metadata, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tracing_subscriber::{fmt, layer::SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Text(Arc<Mutex<Vec<u8>>>);

    impl Write for Text {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_repeats_is_bounded_and_the_others_are_not() {
        let (bounded, text) = (Bounded::default(), Text::default());
        let writer = text.clone();
        let subscriber = tracing_subscriber::registry()
            .with(bounded.clone())
            .with(fmt::layer().with_ansi(false).with_writer(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for id in 0..1_000 {
                tracing::warn!(id, "repeated");
                tracing::debug!(id, "detail");
                tracing::info!(target: AUDIT, id, "changed");
            }
            tracing::warn!("another");
        });
        let text = String::from_utf8(text.0.lock().clone()).unwrap();
        assert_eq!(text.matches("repeated").count(), MAX_LINES as usize);
        assert_eq!(text.matches("detail").count(), 1_000);
        assert_eq!(text.matches("changed").count(), 1_000);
        assert_eq!(text.matches("another").count(), 1);
        let left_out = bounded.left_out();
        assert!(
            matches!(&left_out[..], [(place, 950)] if place.contains("bounded.rs:")),
            "{left_out:?}"
        );
        assert_eq!(bounded.left_out(), []);
    }
}
