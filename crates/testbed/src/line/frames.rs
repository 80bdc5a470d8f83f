//! Splits NATS' text protocol into whole pieces, so that single messages can be removed from it.
//!
//! A piece is a line or, for the four verbs that carry a message, the line and its payload, by the
//! count in the line. Unknown input ends the splitting for good: from there on, everything
//! passes unchanged.

/// Longest line. Larger than any that either side sends.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// Largest message, far above NATS' own limit of 1 MiB.
const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// The prefix of notifications' subjects.
const NOTIFICATIONS: &[u8] = b"changes.";
const END: &[u8] = b"\r\n";

/// One whole piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its bytes, unchanged.
    pub(super) bytes: Vec<u8>,
    /// Whether it is a notification that is published or delivered.
    pub(super) notification: bool,
}

/// Splits input into pieces.
#[derive(Debug, Default)]
pub(super) struct Frames {
    waiting: Vec<u8>,
    /// Something unknown was found.
    lost: bool,
}

impl Frames {
    /// Takes some bytes, split anywhere, and returns the pieces that are now complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.waiting.extend_from_slice(bytes);
        let (mut pieces, mut from) = (Vec::new(), 0);
        while !self.lost && from < self.waiting.len() {
            match next(&self.waiting[from..]) {
                Next::Piece { length, notification } => {
                    let bytes = self.waiting[from..from + length].to_vec();
                    pieces.push(Piece { bytes, notification });
                    from += length;
                }
                Next::More => break,
                Next::Lost => self.lost = true,
            }
        }
        self.waiting.drain(..from);
        if self.lost && !self.waiting.is_empty() {
            let bytes = std::mem::take(&mut self.waiting);
            pieces.push(Piece { bytes, notification: false });
        }
        pieces
    }
}

enum Next {
    Piece { length: usize, notification: bool },
    More,
    Lost,
}

/// The first piece of `bytes`, if it is whole.
fn next(bytes: &[u8]) -> Next {
    let head = &bytes[..bytes.len().min(MAX_LINE_BYTES)];
    let Some(line_length) = head.windows(END.len()).position(|window| window == END) else {
        return if bytes.len() < MAX_LINE_BYTES { Next::More } else { Next::Lost };
    };
    let line = &bytes[..line_length];
    let after_line = line_length + END.len();
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let verb = words.next().unwrap_or_default().to_ascii_uppercase();
    if !matches!(verb.as_slice(), b"PUB" | b"HPUB" | b"MSG" | b"HMSG") {
        return Next::Piece { length: after_line, notification: false };
    }
    let notification = words.next().is_some_and(|subject| subject.starts_with(NOTIFICATIONS));
    // Of all four, the last word is the count of what follows, headers included.
    let count =
        words.next_back().and_then(|word| std::str::from_utf8(word).ok()?.parse::<usize>().ok());
    let Some(count) = count.filter(|count| *count <= MAX_MESSAGE_BYTES) else {
        return Next::Lost;
    };
    let length = after_line + count + END.len();
    if bytes.len() < length {
        return Next::More;
    }
    match bytes[..length].ends_with(END) {
        true => Next::Piece { length, notification },
        false => Next::Lost,
    }
}

#[cfg(test)]
mod tests;
