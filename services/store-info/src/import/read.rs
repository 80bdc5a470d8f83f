//! Parses the lines of an import as stores. Pure.

use nudge_protocol::Unambiguous;

use super::lines::{Line, Lines};
use crate::domain::{GivenId, Store};

/// Longest error about an invalid line, in characters: it may quote the sender's text.
pub const MAX_ERROR_CHARS: usize = 400;

/// A parsed line. There is one for each line that is not blank, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadLine {
    /// Its number, from 1, counting blank lines.
    pub number: u64,
    /// The store, or what is wrong with the line, in at most [`MAX_ERROR_CHARS`] characters.
    pub store: Result<Store, String>,
}

/// Reads a stream of bytes, however it is split. It holds at most one line.
#[derive(Debug)]
pub struct Reader {
    max_line_bytes: usize,
    lines: Lines,
}

impl Reader {
    /// A reader for lines of at most this many bytes.
    pub fn new(max_line_bytes: usize) -> Self {
        Self { max_line_bytes, lines: Lines::new(max_line_bytes) }
    }

    /// The lines that these bytes complete.
    pub fn feed(&mut self, bytes: &[u8]) -> impl Iterator<Item = ReadLine> + use<> {
        let max_line_bytes = self.max_line_bytes;
        self.lines.feed(bytes).into_iter().map(move |line| read(&line, max_line_bytes))
    }

    /// The last line, if no line break ended it.
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
