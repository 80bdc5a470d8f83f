//! Starts and ends a fault.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::TryStreamExt;
use nudge_protocol::{EntityName, subject};
use nudge_testbed::{
    Way,
    line::{Disturb, Hold, How, Sever, Trouble, Which},
};
use tokio::time::Instant;

use super::{
    plan::{Fault, Kind, Target, Who},
    world::{World, start},
};
use crate::client::Service;

/// Time allowed for a request to the broker, which may have just been started.
const BROKER_PATIENCE: Duration = Duration::from_secs(8);
const BROKER_PAUSE: Duration = Duration::from_millis(50);
/// How many notifications are duplicated or dropped.
const SOME: Which = Which::Percent(50);

impl World {
    /// Begins a fault.
    pub(super) async fn begin(&self, fault: &Fault) -> Result<(), String> {
        match fault.kind {
            kind if fault.on == Target::Database => self.server()?.begin(kind).await?,
            Kind::Kill => self.program(fault.place())?.lock().await.kill(),
            Kind::Freeze => {
                self.program(fault.place())?.lock().await.freeze();
            }
            Kind::DiskFull => self.program(fault.place())?.lock().await.set_disk_full(true)?,
            Kind::NatsRollback => self.keep_copy().await?,
            Kind::StreamDelete => self.ask_broker(wishes(Service::ALL, None), false).await?,
            Kind::ConsumerDelete => {
                let Target::Program(who) = fault.on else { unreachable!("only services follow") };
                // Of what a guest may follow, it has one consumer at least.
                let any = matches!(who, Who::Guest(_));
                self.ask_broker(wishes(who.follows(), Some(fault.on)), any).await?;
            }
            _ => self.disturb(fault, true)?,
        }
        Ok(())
    }

    /// Ends a fault.
    pub(super) async fn end(&self, fault: &Fault) -> Result<(), String> {
        match fault.kind {
            _ if fault.on == Target::Database => self.server()?.end().await?,
            Kind::Kill => start(&mut *self.program(fault.place())?.lock().await)?,
            Kind::Freeze => self.program(fault.place())?.lock().await.thaw(),
            Kind::DiskFull => self.program(fault.place())?.lock().await.set_disk_full(false)?,
            Kind::NatsRollback => self.roll_back().await?,
            Kind::StreamDelete | Kind::ConsumerDelete => {}
            _ => self.disturb(fault, false)?,
        }
        Ok(())
    }

    fn disturb(&self, fault: &Fault, begins: bool) -> Result<(), String> {
        // No two faults of a kind begin at the same time.
        let seed = self.seed.wrapping_add(fault.at_millis);
        self.lines.at(fault.place())?.set(|trouble| change(trouble, fault, seed, begins));
        Ok(())
    }

    fn copy_path(&self) -> PathBuf {
        self.data.path().join("nats-before")
    }

    /// Copies NATS' store directory as it would be if NATS were killed now.
    async fn keep_copy(&self) -> Result<(), String> {
        let nats = self.nats().lock().await;
        nats.freeze();
        let (from, to) = (self.data.nats(), self.copy_path());
        let copied = blocking(move || copy_anew(&from, &to)).await;
        nats.thaw();
        copied
    }

    /// Stops NATS, and starts it with the copy.
    async fn roll_back(&self) -> Result<(), String> {
        let mut nats = self.nats().lock().await;
        nats.kill();
        let (from, to) = (self.copy_path(), self.data.nats());
        let swapped = blocking(move || {
            fs::remove_dir_all(&to)?;
            fs::rename(from, to)
        });
        let swapped = swapped.await;
        start(&mut nats)?;
        swapped
    }

    /// Retries until all is done, or any of it: the broker may be busy starting.
    async fn ask_broker(
        &self,
        wishes: impl Iterator<Item = Wish>,
        any: bool,
    ) -> Result<(), String> {
        let deadline = Instant::now() + BROKER_PATIENCE;
        let mut left: Vec<_> = wishes.collect();
        loop {
            let (mut failed, count) = (None, left.len());
            for wish in std::mem::take(&mut left) {
                let asked = tokio::time::timeout_at(deadline, self.wish(&wish)).await;
                let asked = asked.unwrap_or_else(|_| Err("the broker does not answer".to_owned()));
                if let Err(why) = asked {
                    left.push(wish);
                    failed = Some(why);
                }
            }
            match failed {
                None => return Ok(()),
                Some(_) if any && left.len() < count => return Ok(()),
                Some(why) if Instant::now() + BROKER_PAUSE > deadline => return Err(why),
                Some(_) => tokio::time::sleep(BROKER_PAUSE).await,
            }
        }
    }

    async fn wish(&self, Wish { of, consumer_of }: &Wish) -> Result<(), String> {
        let name = subject::stream_name(of);
        let Some(on) = consumer_of.map(|on| on.to_string()) else {
            let deleted = self.broker.jetstream.delete_stream(name).await;
            return deleted.map(drop).map_err(|error| error.to_string());
        };
        let is_its = |name: &&String| subject::consumer_service(name, of) == Some(on.as_str());
        let stream = self.broker.jetstream.get_stream_no_info(name).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let names: Result<Vec<String>, _> = stream.consumer_names().try_collect().await;
        let names = names.map_err(|error| error.to_string())?;
        // One of them may be left of an emptied read model.
        let mut its = names.iter().filter(is_its).peekable();
        its.peek().ok_or("it has no consumer")?;
        for name in its {
            stream.delete_consumer(name).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// That an entity's stream is deleted, or the consumers that a subscriber has of it.
struct Wish {
    of: EntityName,
    consumer_of: Option<Target>,
}

/// One for each entity that these services own.
fn wishes(
    owners: impl IntoIterator<Item = Service>,
    consumer_of: Option<Target>,
) -> impl Iterator<Item = Wish> {
    owners.into_iter().filter_map(Service::owns).map(move |entity| {
        let of = EntityName::new(entity).expect("a good name");
        Wish { of, consumer_of }
    })
}

/// How a fault changes a line, or restores it.
fn change(trouble: &mut Trouble, fault: &Fault, seed: u64, begins: bool) {
    let late = Duration::from_millis(fault.late_millis.unwrap_or(100));
    let disturb = |how| begins.then_some(Disturb { how, seed });
    match fault.kind {
        Kind::Latency => trouble.late = begins.then_some(late),
        Kind::Stall => {
            let is = |way| begins && fault.way.is_none_or(|only| only == way);
            trouble.stalled = (is(Way::There), is(Way::Back));
        }
        Kind::Reset => trouble.sever = begins.then_some(Sever::Reset),
        Kind::Cut => trouble.sever = begins.then_some(Sever::Cut),
        Kind::Refuse => trouble.sever = begins.then_some(Sever::Refuse),
        Kind::Reorder => trouble.disturb = disturb(How::Reorder(Hold::default())),
        Kind::Duplicate => trouble.disturb = disturb(How::Duplicate(SOME)),
        Kind::Drop => trouble.disturb = disturb(How::Drop(SOME)),
        // Not faults of lines.
        _ => {}
    }
}

async fn blocking(
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> Result<(), String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| format!("NATS' store directory: {error}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Copies a directory of files and directories in place of an earlier copy.
fn copy_anew(from: &Path, to: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    copy(from, to)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => drop(fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_a_line_ends_as_it_began_and_leaves_the_others_alone() {
        let fault = |kind, way, late_millis| Fault {
            at_millis: 0,
            for_millis: 0,
            kind,
            on: Target::ToNats(Service::Search.into()),
            replica: 1,
            way,
            late_millis,
        };
        let late = fault(Kind::Latency, None, Some(30));
        let kinds = [Kind::Stall, Kind::Reset, Kind::Cut, Kind::Refuse, Kind::Reorder, Kind::Drop];
        for other in kinds.map(|kind| fault(kind, None, None)) {
            let mut trouble = Trouble::default();
            change(&mut trouble, &late, 1, true);
            let before = trouble;
            assert_eq!(before.late, Some(Duration::from_millis(30)));
            change(&mut trouble, &other, 1, true);
            assert_ne!(trouble, before, "{other}");
            change(&mut trouble, &other, 1, false);
            assert_eq!(trouble, before, "{other}");
            change(&mut trouble, &late, 1, false);
            assert_eq!(trouble, Trouble::default());
        }
        let mut trouble = Trouble::default();
        change(&mut trouble, &fault(Kind::Stall, Some(Way::Back), None), 1, true);
        assert_eq!(trouble.stalled, (false, true));
    }

    #[test]
    fn a_copy_holds_what_was_there_and_nothing_of_the_copy_before() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::create_dir_all(from.join("deep")).unwrap();
        fs::write(from.join("deep/file"), "one").unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(to.join("old"), "").unwrap();
        copy_anew(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("deep/file")).unwrap(), "one");
        assert!(!to.join("old").exists());
    }
}
