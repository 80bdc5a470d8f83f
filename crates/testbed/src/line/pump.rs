//! One direction of one connection: reads data, and passes it on subject to the line's disturbances.

use nudge_chance::Random;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{ReadHalf, WriteHalf},
    time::Instant,
};

use super::{Sever, Shared, Trouble, Way, disturb::Filter};

/// Most bytes that are read at a time.
const CHUNK_BYTES: usize = 64 * 1024;
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
        let filter =
            ours.then(|| Filter::new(shared.passed.clone(), shared.settings.counts.clone()));
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
            let longest = self.filter.as_ref().and_then(Filter::longest_hold);
            held_since = longest.and_then(|_| held_since.or_else(|| Some(Instant::now())));
            let release = held_since.zip(longest).map(|(since, longest)| since + longest);
            let count = tokio::select! {
                read = from.read(&mut chunk) => match read {
                    Ok(count @ 1..) => count,
                    _ => return,
                },
                // What is held back for a disturbance does not outlast it.
                changed = trouble.changed(), if release.is_some() => match changed {
                    Ok(()) => 0,
                    Err(_) => return,
                },
                () = until(release), if release.is_some() => {
                    held_since = None;
                    self.filter.as_mut().into_iter().for_each(|filter| filter.release(&mut out));
                    0
                }
            };
            let read = &chunk[..count];
            self.shared.note(self.way, read);
            let disturb = trouble.borrow_and_update().disturb;
            match &mut self.filter {
                Some(filter) => filter.pass(read, disturb, &mut out),
                None => out.extend(read),
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
