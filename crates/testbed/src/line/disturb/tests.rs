use super::*;
use crate::line::frames::{Frames, Piece};

fn message(n: usize) -> String {
    // A body that looks like the protocol must not be taken for it.
    let body = format!("PUB changes.store.9 1\r\n{n}");
    format!("HPUB changes.store.{n} _INBOX.{n} 0 {}\r\n{body}\r\n", body.len())
}

fn disturb(how: How) -> Option<Disturb> {
    Some(Disturb { how, seed: 1 })
}

fn reorder() -> Option<Disturb> {
    disturb(How::Reorder(Hold::default()))
}

const HALF: Which = Which::Percent(50);

fn filter(counts: &Arc<Counts>) -> Filter {
    Filter::new(Arc::default(), counts.clone())
}

/// Sends messages with a PING after each, in odd chunks, and returns the pieces that come out.
fn send(count: usize, disturb: Option<Disturb>) -> (Vec<Piece>, Arc<Counts>) {
    let counts = Arc::<Counts>::default();
    let mut filter = filter(&counts);
    let stream: String = (0..count).map(|n| message(n) + "PING\r\n").collect();
    let mut out = Vec::new();
    for chunk in stream.as_bytes().chunks(11) {
        filter.pass(chunk, disturb, &mut out);
    }
    filter.release(&mut out);
    assert!(filter.longest_hold().is_none());
    (Frames::default().push(&out), counts)
}

fn notifications(pieces: &[Piece]) -> Vec<String> {
    let found = pieces.iter().filter(|piece| piece.notification);
    found.map(|piece| String::from_utf8(piece.bytes.clone()).unwrap()).collect()
}

fn pings(pieces: &[Piece]) -> usize {
    pieces.iter().filter(|piece| piece.bytes == b"PING\r\n").count()
}

#[test]
fn undisturbed_everything_passes_as_it_is() {
    let (pieces, _) = send(50, None);
    let expected: Vec<_> = (0..50).map(message).collect();
    assert_eq!(notifications(&pieces), expected);
    assert_eq!(pieces.len(), 100);
}

#[test]
fn reordering_keeps_each_message_whole_and_once() {
    let (pieces, counts) = send(150, reorder());
    let (mut found, mut expected) =
        (notifications(&pieces), (0..150).map(message).collect::<Vec<_>>());
    assert_ne!(found, expected);
    let place = |one: &String| expected.iter().position(|other| other == one).unwrap();
    let places: Vec<_> = found.iter().map(place).collect();
    let overtook = (0..150).filter(|at| places[at + 1..].iter().any(|later| *later < places[*at]));
    let overtook = overtook.count() as u64;
    assert!((75..150).contains(&overtook), "{overtook}");
    assert_eq!((pings(&pieces), counts.reordered.load(Relaxed)), (150, overtook));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn what_is_released_alone_or_as_a_copy_counts_as_no_other_order() {
    let counts = Arc::<Counts>::default();
    let (mut filter, mut out) = (filter(&counts), Vec::new());
    for n in 0..20 {
        filter.pass(message(n).as_bytes(), reorder(), &mut out);
        assert!(filter.longest_hold().is_some());
        filter.release(&mut out);
    }
    let expected: String = (0..20).map(message).collect();
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    let (_, duplicates) = send(150, disturb(How::Duplicate(HALF)));
    assert_eq!((counts.reordered.load(Relaxed), duplicates.reordered.load(Relaxed)), (0, 0));
    assert_eq!([0, 1, 2, 3, 1].map(|n| overtakers(&[0, 2, 1, 3][..n])), [0, 0, 0, 1, 0]);
}

#[test]
fn duplicates_are_whole_and_none_is_missing() {
    let (pieces, counts) = send(150, disturb(How::Duplicate(HALF)));
    let found = notifications(&pieces);
    let times = |n| found.iter().filter(|one| **one == message(n)).count();
    assert!((0..150).all(|n| (1..=2).contains(&times(n))));
    let twice = (0..150).filter(|n| times(*n) == 2).count();
    assert!((30..120).contains(&twice), "{twice}");
    assert_eq!((counts.duplicated.load(Relaxed), pings(&pieces)), (twice as u64, 150));
    assert_eq!(pieces.len(), 300 + twice);
}

#[test]
fn what_is_dropped_is_whole_messages_and_notifications_alone() {
    let (pieces, counts) = send(150, disturb(How::Drop(HALF)));
    let found = notifications(&pieces);
    let expected: Vec<_> = (0..150).map(message).filter(|one| found.contains(one)).collect();
    assert_eq!(found, expected, "the others keep their order");
    let dropped = 150 - found.len();
    assert!((30..120).contains(&dropped), "{dropped}");
    assert_eq!((counts.dropped.load(Relaxed), pings(&pieces)), (dropped as u64, 150));
    assert_eq!(pieces.len(), 150 + found.len());
}

#[test]
fn what_is_held_is_bounded_and_goes_on_when_the_disturbance_ends() {
    let mut filter = filter(&Arc::default());
    let mut out = Vec::new();
    for n in 0..MAX_HELD - 1 {
        filter.pass(message(n).as_bytes(), reorder(), &mut out);
    }
    assert!(out.is_empty() && filter.longest_hold().is_some());
    filter.pass(message(99).as_bytes(), reorder(), &mut out);
    assert!(filter.longest_hold().is_none());
    filter.pass(message(1).as_bytes(), reorder(), &mut out);
    let before = out.len();
    filter.pass(b"PING\r\n", None, &mut out);
    assert_eq!(out[before..], [message(1).as_bytes(), b"PING\r\n"].concat());
}

#[test]
fn the_next_ones_are_dropped_on_whichever_connection_they_come() {
    let (passed, counts) = (Arc::<AtomicU64>::default(), Arc::<Counts>::default());
    let mut out = Vec::new();
    for n in 0..5 {
        let mut connection = Filter::new(passed.clone(), counts.clone());
        connection.pass(message(n).as_bytes(), disturb(How::Drop(Which::Next(3))), &mut out);
    }
    assert_eq!(String::from_utf8(out).unwrap(), message(3) + &message(4));
    assert_eq!(counts.dropped.load(Relaxed), 3);
}

#[test]
fn as_many_as_wanted_are_held_back_and_each_end_lets_them_go() {
    let counts = Arc::<Counts>::default();
    let hold = Hold { most: 3, longest: Duration::from_secs(7) };
    let (mut filter, mut out) = (filter(&counts), Vec::new());
    for n in 0..2 {
        filter.pass(message(n).as_bytes(), disturb(How::Reorder(hold)), &mut out);
    }
    assert_eq!((out.len(), counts.held.load(Relaxed)), (0, 2));
    assert_eq!(filter.longest_hold(), Some(Duration::from_secs(7)));
    filter.pass(message(2).as_bytes(), disturb(How::Reorder(hold)), &mut out);
    assert_eq!(
        (notifications(&Frames::default().push(&out)).len(), counts.held.load(Relaxed)),
        (3, 0)
    );
    // The end of the disturbance, without any further message.
    filter.pass(message(3).as_bytes(), disturb(How::Reorder(hold)), &mut out);
    filter.pass(b"", None, &mut out);
    assert_eq!(
        (notifications(&Frames::default().push(&out)).len(), counts.held.load(Relaxed)),
        (4, 0)
    );
    // The end of the connection.
    filter.pass(message(4).as_bytes(), disturb(How::Reorder(hold)), &mut out);
    drop(filter);
    assert_eq!(counts.held.load(Relaxed), 0);
}
