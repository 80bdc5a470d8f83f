//! Times, counts and commands as text.

use nudge_protocol::{EntityId, Timestamp};

use crate::output::duration;

/// A number with its thousands apart: `1,204`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How long ago something was: `3.2 s ago`.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", duration(now.seconds_since(at)))
}

/// When something will be: `in 3.2 s`, or `now`.
pub(super) fn when(at: Timestamp, now: Timestamp) -> String {
    match at.seconds_since(now) {
        seconds if seconds > 0.0 => format!("in {}", duration(seconds)),
        _ => "now".to_owned(),
    }
}

/// An ID as an argument of a command.
pub(super) fn argument(id: &EntityId) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@+,=".contains(c);
    let text = id.as_str();
    match text.chars().all(is_plain) && !text.starts_with('-') {
        true => text.to_owned(),
        // After `--`, it is no option.
        false if text.starts_with('-') => format!("-- {}", quoted(text)),
        false => quoted(text),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let texts = [0, 999, 1_204, 1_000_000].map(number);
        assert_eq!(texts, ["0", "999", "1,204", "1,000,000"]);
    }

    #[test]
    fn a_shell_takes_an_id_as_one_argument() {
        for (id, text) in [
            ("store-42", "store-42"),
            ("강남점", "'강남점'"),
            ("it's; rm", r"'it'\''s; rm'"),
            ("-x", "-- '-x'"),
        ] {
            assert_eq!(argument(&EntityId::new(id).unwrap()), text);
        }
    }

    #[test]
    fn what_is_due_is_due_now() {
        let at = Timestamp::from_unix_micros;
        assert_eq!(when(at(5_000_000), at(2_000_000)), "in 3.0 s");
        assert_eq!(when(at(1), at(2)), "now");
        assert_eq!(ago(at(2_000_000), at(5_000_000)), "3.0 s ago");
    }
}
