//! `nudge watch`: every change, from the owner's commit to each subscriber's read model.

use std::time::{Duration, Instant};

use clap::Args;
use console::style;
use nudge_protocol::EntityId;
use tokio::sync::mpsc;

use self::{
    ask::{Note, ask_applied, ask_follows},
    board::Board,
    event::Told,
    render::Layout,
    row::{Key, Row},
    screen::Screen,
};
use crate::{
    client::Api,
    failure::Failure,
    output,
    peers::Peer,
    roles, signals,
    sse::{self, Signal},
};

mod ask;
mod board;
pub(crate) mod event;
mod owner;
mod render;
mod row;
mod screen;
mod settled;
mod summary;

/// Interval between redraws.
const TICK: Duration = Duration::from_millis(50);
/// Interval between rounds of asking for changes whose end we may have missed.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Most such questions in one round.
const MAX_QUESTIONS: usize = 64;
/// Most signals and notes that wait to be taken; streams wait beyond that.
const MAX_WAITING: usize = 1_024;
/// Most rows of changes under way that are drawn.
const MAX_LIVE_ROWS: usize = 10;

/// Arguments of `nudge watch`.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Show only changes of this ID
    id: Option<EntityId>,
    /// Stop after this many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

enum View {
    Terminal(Screen),
    Lines,
    Json,
}

struct Watch {
    api: Api,
    /// Those that are followed, in the order of their columns.
    subscribers: Vec<Peer>,
    /// Their names.
    names: Vec<&'static str>,
    only: Option<EntityId>,
    board: Board,
    up: Vec<bool>,
    view: View,
    wanted: mpsc::Sender<Key>,
    notes: mpsc::Sender<Note>,
    began: Instant,
}

/// Runs until Ctrl-C, SIGTERM or the wanted number of changes.
pub(crate) async fn run(api: Api, args: WatchArgs, json: bool) -> Result<(), Failure> {
    let subscribers = roles::followers(&api, "all", None).await?;
    let (sender, mut signals) = mpsc::channel(MAX_WAITING);
    for peer in &subscribers {
        tokio::spawn(sse::follow(api.clone(), *peer, sender.clone()));
    }
    drop(sender);
    let (notes, mut told) = mpsc::channel(MAX_WAITING);
    let (wanted, keys) = mpsc::channel(owner::MAX_WAITING_KEYS);
    tokio::spawn(owner::describe(api.clone(), keys, notes.clone()));
    let view = match json {
        true => View::Json,
        false => Screen::new().map_or(View::Lines, View::Terminal),
    };
    let mut watch = Watch {
        api,
        only: args.id,
        board: Board::new(subscribers.len()),
        up: vec![false; subscribers.len()],
        names: subscribers.iter().map(|peer| peer.name()).collect(),
        subscribers,
        view,
        wanted,
        notes,
        began: Instant::now(),
    };
    watch.first_contact(&mut signals).await?;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ask = tokio::time::interval(ASK_INTERVAL);
    let stop = signals::stop();
    loop {
        tokio::select! {
            Some(signal) = signals.recv() => watch.signal(signal)?,
            Some(note) = told.recv() => watch.note(note),
            _ = tick.tick() => {
                watch.show()?;
                if args.count.is_some_and(|count| watch.board.changes >= count) {
                    break;
                }
            }
            _ = ask.tick() => watch.ask_again(),
            () = stop.cancelled() => break,
        }
    }
    watch.finish()
}

impl Watch {
    /// Waits until each subscriber is connected or known to be away. When all are away there is
    /// nothing to watch.
    async fn first_contact(&mut self, signals: &mut mpsc::Receiver<Signal>) -> Result<(), Failure> {
        let mut first = vec![None; self.subscribers.len()];
        while first.contains(&None) {
            let Some(signal) = signals.recv().await else {
                break;
            };
            match signal {
                Signal::Up(peer) | Signal::Down(peer, _) => {
                    first[self.number(peer)] = Some(signal);
                }
                Signal::Event(..) => self.signal(signal)?,
            }
        }
        let first: Vec<_> = first.into_iter().flatten().collect();
        if let [Signal::Down(_, why), ..] = &first[..]
            && !first.iter().any(|signal| matches!(signal, Signal::Up(_)))
        {
            return Err(Failure::failed(why));
        }
        first.into_iter().try_for_each(|signal| self.signal(signal))
    }

    fn signal(&mut self, signal: Signal) -> Result<(), Failure> {
        match signal {
            Signal::Up(peer) => {
                let subscriber = self.number(peer);
                self.up[subscriber] = true;
                let (api, notes) = (self.api.clone(), self.notes.clone());
                tokio::spawn(ask_follows(api, peer, subscriber, notes));
                self.remark(peer, "is connected")
            }
            Signal::Down(peer, reason) => {
                let subscriber = self.number(peer);
                self.up[subscriber] = false;
                self.remark(peer, &format!("is away, trying again ({reason})"))
            }
            Signal::Event(peer, line) => match event::read(&line.data) {
                Some(Told::Event(event)) => {
                    if self.only.as_ref().is_none_or(|only| *only == event.id) {
                        let now = nudge_runtime::clock::now();
                        let begun = self.board.take(self.number(peer), &event, now);
                        // When too many wait, the row goes without a name.
                        begun.map(|key| self.wanted.try_send(key));
                    }
                    Ok(())
                }
                Some(Told::Missed(count)) => {
                    let what = format!("sent {count} events too fast to be shown");
                    self.remark(peer, &what)
                }
                None => Ok(()),
            },
        }
    }

    fn number(&self, peer: Peer) -> usize {
        let number = self.subscribers.iter().position(|one| *one == peer);
        number.expect("only these are followed")
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Described(description) => self.board.describe(&description),
            Note::Follows(subscriber, entities) => self.board.set_follows(subscriber, entities),
            Note::Found { subscriber, key, version, applied_at } => {
                self.board.found(subscriber, &key, version, applied_at);
            }
        }
    }

    /// A remark on the connection. On a terminal the bottom line shows it already.
    fn remark(&self, peer: Peer, what: &str) -> Result<(), Failure> {
        if !matches!(self.view, View::Terminal(_)) {
            eprintln!("watch: {} {what}", peer.name());
        }
        Ok(())
    }

    fn ask_again(&mut self) {
        for (subscriber, key) in self.board.overdue(&self.up, MAX_QUESTIONS) {
            let peer = self.subscribers[subscriber];
            let notes = self.notes.clone();
            tokio::spawn(ask_applied(self.api.clone(), peer, subscriber, key, notes));
        }
    }

    fn show(&mut self) -> Result<(), Failure> {
        let due = self.board.due(nudge_runtime::clock::now());
        let names = &self.names;
        let View::Terminal(screen) = &mut self.view else {
            return self.tell(&due);
        };
        let (height, width) = screen.size();
        let layout = Layout::new(Some(width), names);
        let lines = |row: &Row| render::lines(row, names, &layout);
        let finished: Vec<_> = due.iter().flat_map(lines).collect();
        let most = MAX_LIVE_ROWS.min(height.saturating_sub(2));
        let rows: Vec<_> = self.board.live().filter(|row| !row.is_settled()).take(most).collect();
        let mut live: Vec<_> = rows.into_iter().flat_map(lines).take(most).collect();
        live.push(render::footer(&self.board, names, &self.up, &layout));
        screen.draw(&finished, &live)
    }

    /// Writes changes to a file or a pipe.
    fn tell(&self, rows: &[Row]) -> Result<(), Failure> {
        let names = &self.names;
        for row in rows {
            match self.view {
                View::Json => output::json(&render::row_json(row, names))?,
                _ => {
                    for line in render::lines(row, names, &Layout::new(None, names)) {
                        output::line(line)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Failure> {
        let names = self.names.clone();
        let rest = self.board.finish();
        let seconds = self.began.elapsed().as_secs_f64();
        let summary = render::summary(&self.board, &names, seconds);
        if let View::Terminal(screen) = &mut self.view {
            let layout = Layout::new(Some(screen.size().1), &names);
            let rows = rest.iter().flat_map(|row| render::lines(row, &names, &layout));
            let rule = style("─".repeat(screen.size().1.saturating_sub(1))).dim().to_string();
            let last: Vec<_> = rows.chain([rule]).chain(summary).collect();
            return screen.finish(&last);
        }
        self.tell(&rest)?;
        match self.view {
            View::Json => output::json(&render::summary_json(&self.board, &names, seconds)),
            _ => summary.iter().try_for_each(output::line),
        }
    }
}
