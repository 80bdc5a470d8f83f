//! Logs, and other terminal output, in which text from outside cannot do harm.

pub(crate) mod bounded;

use std::{
    borrow::Cow,
    io::{self, Write},
};

use tracing_subscriber::fmt::MakeWriter;

/// Text that is safe to show: each control character is escaped as in Rust, `\u{7}`. Only tabs, line
/// breaks and colours are kept, since they cannot move or hide anything.
///
/// ```
/// use nudge_runtime::logs::harmless;
/// assert_eq!(harmless("달빛\u{7} \u{1b}[31mred\u{1b}[0m"), "달빛\\u{7} \u{1b}[31mred\u{1b}[0m");
/// assert_eq!(harmless("\u{1b}[2Jgone"), "\\u{1b}[2Jgone");
/// ```
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for (at, c) in text.char_indices() {
        match c {
            '\n' | '\t' => shown.push(c),
            '\u{1b}' if is_colour(&text[at + 1..]) => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Whether the text after an escape character makes it a colour sequence: `[31;1m`.
fn is_colour(rest: &str) -> bool {
    let numbers = rest
        .strip_prefix('[')
        .map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
    numbers.is_some_and(|rest| rest.starts_with('m'))
}

/// Standard error, one line per event, whatever it contains.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Lines {
    /// Each event arrives in one piece.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(line(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn line(event: &str) -> Cow<'_, str> {
    let text = event.strip_suffix('\n').unwrap_or(event);
    match harmless(text) {
        Cow::Borrowed(text) if !text.contains('\n') => Cow::Borrowed(event),
        text => Cow::Owned(format!("{}\n", text.replace('\n', "\\n"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_the_cursor_or_rings_is_shown_as_text() {
        for (text, shown) in [
            ("달빛 \t ok\n", "달빛 \t ok\n"),
            ("a\rb", "a\\rb"),
            ("a\u{8}\u{7f}\u{9b}31m", "a\\u{8}\\u{7f}\\u{9b}31m"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{1b}[31mred\u{1b}[0m", "\u{1b}[31mred\u{1b}[0m"),
            ("\u{1b}[1;2Hm", "\\u{1b}[1;2Hm"),
            ("\u{1b}", "\\u{1b}"),
        ] {
            assert_eq!(harmless(text), shown);
        }
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(line("plain\n"), "plain\n");
        assert_eq!(line("one\n2026 ERROR forged\n"), "one\\n2026 ERROR forged\n");
        assert_eq!(line("bell\u{7}\n"), "bell\\u{7}\n");
    }
}
