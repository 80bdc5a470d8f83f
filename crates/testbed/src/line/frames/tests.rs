use proptest::prelude::*;

use super::*;

fn whole(stream: &[u8]) -> Vec<Piece> {
    Frames::default().push(stream)
}

fn shown(pieces: &[Piece]) -> Vec<(&[u8], bool)> {
    pieces.iter().map(|piece| (piece.bytes.as_slice(), piece.notification)).collect()
}

#[test]
fn messages_are_cut_by_their_count_and_notifications_are_known_by_their_subject() {
    let parts: [(&[u8], bool); 11] = [
        (b"INFO {\"a\":1}\r\n", false),
        (b"CONNECT {}\r\n", false),
        (b"HPUB changes.store.1 _INBOX.x 4 8\r\nhdr\nbody\r\n", true),
        (b"PUB changes.store.2 2\r\n\r\n\r\n", true),
        (b"pub\tchanges.store.3 _INBOX.y 0\r\n\r\n", true),
        (b"PUB $JS.ACK.CHANGES_store.search 4\r\n+ACK\r\n", false),
        (b"MSG other.changes.store.1 7 12\r\nPUB x 3\r\nab\n\r\n", false),
        (b"HMSG changes.store.4 7 $JS.ACK.c.1 2 5\r\nabcde\r\n", true),
        (b"SUB changes.store.* 9\r\n", false),
        (b"PING\r\n", false),
        (b"\r\n", false),
    ];
    let stream: Vec<u8> = parts.iter().flat_map(|(bytes, _)| bytes.to_vec()).collect();
    assert_eq!(shown(&whole(&stream)), parts);
}

#[test]
fn what_is_not_whole_waits() {
    let mut frames = Frames::default();
    assert_eq!(frames.push(b"HPUB changes.store.1 0 5\r"), []);
    assert_eq!(frames.push(b"\n12345\r"), []);
    let pieces = frames.push(b"\nPI");
    assert_eq!(shown(&pieces), [(b"HPUB changes.store.1 0 5\r\n12345\r\n".as_slice(), true)]);
    assert_eq!(shown(&frames.push(b"NG\r\n")), [(b"PING\r\n".as_slice(), false)]);
}

#[test]
fn after_nonsense_everything_passes_as_it_is() {
    let nonsense: [&[u8]; 4] = [
        b"PUB changes.store.1 many\r\nPUB changes.store.2 0\r\n\r\n",
        b"PUB changes.store.1 2\r\nabcd\r\n",
        b"MSG changes.store.1 1 99999999999999999999\r\n",
        b"PUB\r\n",
    ];
    for stream in nonsense {
        let mut frames = Frames::default();
        assert_eq!(shown(&frames.push(stream)), [(stream, false)]);
        assert_eq!(shown(&frames.push(b"PUB chan")), [(b"PUB chan".as_slice(), false)]);
    }
    let endless = vec![b'x'; MAX_LINE_BYTES];
    assert_eq!(shown(&whole(&endless)), [(endless.as_slice(), false)]);
}

/// One piece: any message, with any bytes in it.
fn piece() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let body = prop::collection::vec(any::<u8>(), 0..300);
    let message =
        (0..4_usize, any::<bool>(), any::<bool>(), body).prop_map(|(verb, ours, reply, body)| {
            let verb_text = ["PUB", "HPUB", "MSG", "HMSG"][verb];
            let subject = if ours { "changes.store.a%2Eb" } else { "$JS.API.INFO" };
            let sid = if verb >= 2 { " 12" } else { "" };
            let reply = if reply { " _INBOX.1" } else { "" };
            let headers = if verb % 2 == 1 { " 0" } else { "" };
            let mut bytes =
                format!("{verb_text} {subject}{sid}{reply}{headers} {}\r\n", body.len())
                    .into_bytes();
            bytes.extend(body);
            bytes.extend(b"\r\n");
            (bytes, ours)
        });
    let line = "(PING|PONG|\\+OK|INFO [a-z{}\":]{0,80}|-ERR 'x')";
    prop_oneof![message, line.prop_map(|line| (format!("{line}\r\n").into_bytes(), false))]
}

proptest! {
    #[test]
    fn pieces_are_the_same_however_the_stream_is_split(
        parts in prop::collection::vec(piece(), 0..12),
        steps in prop::collection::vec(1..200_usize, 1..40),
    ) {
        let stream: Vec<u8> = parts.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let (mut frames, mut found, mut rest) = (Frames::default(), Vec::new(), stream.as_slice());
        for step in steps.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*step).min(rest.len()));
            found.extend(frames.push(now).into_iter().map(|piece| (piece.bytes, piece.notification)));
            rest = later;
        }
        prop_assert_eq!(found, parts);
    }

    #[test]
    fn no_byte_is_added_or_lost_whatever_comes(
        stream in prop::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b' '), Just(b'1')], 0..400),
        start in prop_oneof![Just(""), Just("PUB changes.a "), Just("MSG x 1 ")],
    ) {
        let stream = [start.as_bytes(), &stream].concat();
        let mut frames = Frames::default();
        let mut out: Vec<u8> = Vec::new();
        for chunk in stream.chunks(7) {
            out.extend(frames.push(chunk).into_iter().flat_map(|piece| piece.bytes));
        }
        prop_assert!(stream.starts_with(&out));
        prop_assert_eq!(&stream[out.len()..], &frames.waiting);
    }
}
