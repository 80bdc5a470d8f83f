//! One direction of one connection: reads data, and passes it on subject to the line's disturbances.

use std::time::Duration;

use nudge_chance::Random;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{ReadHalf, WriteHalf},
    time::Instant,
};

use super::{Sever, Shared, Trouble, Way, disturb::Filter};

/// Most bytes that are read at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Longest time that a message is held back.
const HOLD: Duration = Duration::from_millis(400);
/// Most bytes of answers that pass before a connection is cut.
pub(super) const MAX_BYTES_BEFORE_CUT: u64 = 400;

pub(super) struct Pump {
    shared: Shared,
    way: Way,
    filter: Option<Filter>,
    left_before_cut: usize,
}

impl Pump {
    pub(super) fn new(way: Way, shared: &Shared, random: &mut Random) -> Self {
        let ours = shared.settings.notifications == Some(way);
        let filter = ours.then(|| {
            let random = Random::stream(random.any(), 0);
            Filter::new(random, shared.settings.counts.clone())
        });
        let left_before_cut = random.between(1, MAX_BYTES_BEFORE_CUT) as usize;
        Self { shared: shared.clone(), way, filter, left_before_cut }
    }

    /// Ends when either side hangs up, or the connection is cut.
    pub(super) async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
        let mut trouble = self.shared.trouble.subscribe();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut out = Vec::new();
        let mut held_since: Option<Instant> = None;
        loop {
            let release = held_since.map(|since| since + HOLD);
            let count = tokio::select! {
                read = from.read(&mut chunk) => match read {
                    Ok(count @ 1..) => Some(count),
                    _ => return,
                },
                () = until(release), if release.is_some() => None,
            };
            let read = &chunk[..count.unwrap_or(0)];
            self.shared.note(self.way, read);
            let disturb = trouble.borrow().disturb;
            match (&mut self.filter, count) {
                (Some(filter), Some(_)) => filter.pass(read, disturb, &mut out),
                (Some(filter), None) => filter.release(&mut out),
                (None, _) => out.extend(read),
            }
            let holds = self.filter.as_ref().is_some_and(Filter::holds);
            held_since = held_since.filter(|_| holds && count.is_some());
            if holds && held_since.is_none() {
                held_since = Some(Instant::now());
            }
            if trouble.wait_for(|trouble| !trouble.stalls(self.way)).await.is_err() {
                return;
            }
            let Trouble { late, sever, .. } = *trouble.borrow();
            if let Some(late) = late {
                tokio::time::sleep(late).await;
            }
            let cut = self.way == Way::Back && sever == Some(Sever::Cut);
            if cut && out.len() >= self.left_before_cut {
                let _ = to.write_all(&out[..self.left_before_cut]).await;
                return;
            }
            self.left_before_cut -= if cut { out.len() } else { 0 };
            if to.write_all(&out).await.is_err() {
                return;
            }
            out.clear();
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
