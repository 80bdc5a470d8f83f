//! What goes to standard output: lines, JSON and tables.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
};

use console::{Alignment, measure_text_width, pad_str};
use serde::Serialize;

use nudge_runtime::logs::harmless;

use crate::failure::Failure;

/// Writes one line. `println!` would panic if the reader is gone.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    // What others have written is in it, too.
    raw(format!("{}\n", harmless(&text.to_string())).as_bytes())
}

/// Writes a value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).expect("our own values always serialize");
    raw(format!("{}\n", escaped(&text)).as_bytes())
}

/// JSON in which control characters beyond ASCII's first are escaped, too.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c.is_control() {
            true => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => escaped.push(c),
        }
    }
    escaped
}

/// Writes bytes as they are and flushes them, so that a pipe's reader sees them at once.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    // Tests are quiet: what `print!` writes is captured.
    if cfg!(test) {
        print!("{}", String::from_utf8_lossy(bytes));
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::failed(format!("standard output: {error}")),
    })
}

/// Lines up rows in columns by their width on the screen (a Korean syllable takes two cells) and
/// leaves no space at the ends. The first row is the heading.
pub(crate) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| measure_text_width(cell)).max()
    };
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let format_row = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let padded = cells.map(|(cell, &width)| pad_str(cell, width, Alignment::Left, None));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(format_row).collect()
}

/// Seconds as a person reads them: `850 µs`, `2.1 ms`, `340 ms`, `12.3 s`, `4 min 05 s`.
pub(crate) fn duration(seconds: f64) -> String {
    let millis = seconds * 1e3;
    match seconds {
        s if s < 0.0 => "0 ms".to_owned(),
        _ if millis < 99.95 => format!("{millis:.1} ms"),
        _ if millis < 999.5 => format!("{millis:.0} ms"),
        s if s < 119.95 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{} min {:02} s", s as u64 / 60, s as u64 % 60),
        s => format!("{} h {:02} min", s as u64 / 3_600, s as u64 % 3_600 / 60),
    }
}

/// A count with its noun: `1 change`, `2 changes`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_script() {
        let rows = [vec!["name", "id"], vec!["달빛국수", "1"], vec!["Café", "22"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(table(&rows), ["name      id", "달빛국수  1", "Café      22"]);
    }

    #[test]
    fn json_moves_no_cursor_and_means_the_same() {
        let value = serde_json::json!({"error": "\u{9b}2J\u{7f} 달빛\n"});
        let text = escaped(&value.to_string());
        assert!(!text.contains(char::is_control), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn durations_keep_about_three_digits() {
        let shown: Vec<_> = [-0.5, 0.00004, 0.0021, 0.0999, 0.34, 12.34, 245.0, 7_300.0]
            .map(duration)
            .into_iter()
            .collect();
        let expected =
            ["0 ms", "0.0 ms", "2.1 ms", "99.9 ms", "340 ms", "12.3 s", "4 min 05 s", "2 h 01 min"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn nouns_follow_their_number() {
        assert_eq!(count(1, "change"), "1 change");
        assert_eq!(count(0, "dead letter"), "0 dead letters");
    }
}
