//! Bytes to stores: what each line of an import says. Pure.

use nudge_protocol::Unambiguous;

use super::lines::{Line, Lines};
use crate::domain::{GivenId, Store};

/// How much is said about a line that is no store, in characters: its text is the sender's.
pub const MAX_ERROR_CHARS: usize = 400;

/// A line that was read. There is one for each line that is not blank, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadLine {
    /// Its number, from 1. Blank lines count.
    pub number: u64,
    /// The store, or what is wrong with the line, in at most [`MAX_ERROR_CHARS`] characters.
    pub store: Result<Store, String>,
}

/// Reads a stream of bytes, wherever its pieces begin and end. It holds one line at most.
#[derive(Debug)]
pub struct Reader {
    max_line_bytes: usize,
    lines: Lines,
}

impl Reader {
    /// A reader of lines of at most so many bytes.
    pub fn new(max_line_bytes: usize) -> Self {
        Self { max_line_bytes, lines: Lines::new(max_line_bytes) }
    }

    /// The lines that these bytes complete.
    pub fn feed(&mut self, bytes: &[u8]) -> impl Iterator<Item = ReadLine> + use<> {
        let max_line_bytes = self.max_line_bytes;
        self.lines.feed(bytes).into_iter().map(move |line| read(&line, max_line_bytes))
    }

    /// The last line, when no line break ended it.
    pub fn finish(&mut self) -> Option<ReadLine> {
        self.lines.finish().map(|line| read(&line, self.max_line_bytes))
    }
}

fn read(line: &Line, max_line_bytes: usize) -> ReadLine {
    let store =
        store(line, max_line_bytes).map_err(|error| error.chars().take(MAX_ERROR_CHARS).collect());
    ReadLine { number: line.number, store }
}

fn store(line: &Line, max_line_bytes: usize) -> Result<Store, String> {
    let Some(text) = &line.text else {
        return Err(format!("a line must be at most {max_line_bytes} bytes"));
    };
    let read = serde_json::from_slice::<Unambiguous>(text);
    let json = read.map_err(|error| match error.is_data() {
        true => error.to_string(),
        false => format!("not valid JSON: {error}"),
    })?;
    Store::read(&json.0, GivenId::InBody).map_err(|invalid| invalid.to_string())
}
