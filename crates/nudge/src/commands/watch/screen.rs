//! The part of the terminal that is drawn again and again: the changes under way, and one line on
//! the whole. What is finished is written above it, once, and scrolls away as usual.

use console::Term;

use crate::{failure::Failure, output};

/// Begins and ends a frame: a terminal that knows these shows it whole, others skip them.
const FRAME: (&str, &str) = ("\x1b[?2026h", "\x1b[?2026l");

/// Draws on standard output.
#[derive(Debug)]
pub(super) struct Screen {
    term: Term,
    drawn: String,
}

impl Screen {
    /// On standard output, when it is a terminal that can move its cursor.
    pub(super) fn new() -> Option<Self> {
        let term = Term::stdout();
        let dumb = std::env::var("TERM").is_ok_and(|name| name == "dumb");
        (term.is_term() && !dumb).then(|| Self { term, drawn: String::new() })
    }

    /// Height and width.
    pub(super) fn size(&self) -> (usize, usize) {
        let (rows, columns) = self.term.size();
        (usize::from(rows), usize::from(columns))
    }

    /// Writes `finished` for good, and `live` below it until the next call.
    pub(super) fn draw(&mut self, finished: &[String], live: &[String]) -> Result<(), Failure> {
        let live = live.join("\n");
        if finished.is_empty() && live == self.drawn {
            return Ok(());
        }
        let mut frame = format!("{}{}", FRAME.0, self.erase());
        for line in finished {
            frame.push_str(line);
            frame.push('\n');
        }
        frame.push_str(&live);
        frame.push_str(FRAME.1);
        self.drawn = live;
        output::raw(frame.as_bytes())
    }

    /// Takes the live part away and writes `last` instead.
    pub(super) fn finish(&mut self, last: &[String]) -> Result<(), Failure> {
        let lines: String = last.iter().map(|line| format!("{line}\n")).collect();
        output::raw(format!("{}{lines}", self.erase()).as_bytes())
    }

    fn erase(&self) -> String {
        let above = self.drawn.matches('\n').count();
        let up = if above == 0 { String::new() } else { format!("\x1b[{above}A") };
        // Also wipes the `^C` that a terminal echoes.
        format!("\r{up}\x1b[0J")
    }
}
