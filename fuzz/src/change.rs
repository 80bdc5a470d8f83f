//! Mutations that keep JSON valid. libFuzzer's own mutate bytes and rarely leave a readable body; these replace
//! values, fields and characters.

use std::ops::Range;

/// Replacements for a value.
const VALUES: [&str; 16] = [
    "{}",
    "[]",
    "\"\"",
    "null",
    "true",
    "false",
    "0",
    "1",
    "-0",
    "1.0",
    "1e3",
    "9007199254740991",
    "9007199254740992",
    "\"1\"",
    "\"\\ud800\"",
    "\"2026-01-01T00:00:00Z\"",
];
/// Insertions into a text.
const CHARACTERS: [&str; 16] = [
    " ", "가", "%", "%2E", "%00", ".", "/", "@", "1", "\\\"", "\\\\", "\\n", "\\u0000", "\\ud800",
    "\u{85}", "\u{feff}",
];

/// The input with one change to its JSON, chosen by the seed. `None` if it contains no JSON.
pub fn change(input: &[u8], seed: u32) -> Option<Vec<u8>> {
    let mut dice = Dice(u64::from(seed));
    let values = values(input);
    let mut pieces = fields(input, &values);
    pieces.extend(values.iter().cloned());
    let piece = dice.pick(&pieces)?;
    let put = |range: &Range<usize>, what: &[u8]| {
        [&input[..range.start], what, &input[range.end..]].concat()
    };
    Some(match dice.below(5) {
        0 => put(dice.pick(&values)?, dice.pick(&VALUES)?.as_bytes()),
        1 => put(piece, &input[dice.pick(&pieces)?.clone()]),
        2 => put(&with_comma(input, piece), b""),
        3 => {
            put(piece, &[&input[piece.clone()], b",", &input[dice.pick(&pieces)?.clone()]].concat())
        }
        _ => {
            let texts: Vec<_> = values.iter().filter(|text| input[text.start] == b'"').collect();
            let text = dice.pick(&texts)?;
            let at = text.start + 1 + dice.below(text.len() - 1);
            put(&(at..at), dice.pick(&CHARACTERS)?.as_bytes())
        }
    })
}

/// The ranges of values: texts, words and numbers, lists and objects. Everything else is skipped.
fn values(input: &[u8]) -> Vec<Range<usize>> {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let (mut values, mut open, mut at) = (Vec::new(), Vec::new(), 0);
    while let Some(byte) = input.get(at) {
        let begin = at;
        at += 1;
        match byte {
            b'{' | b'[' => open.push(begin),
            b'}' | b']' => values.extend(open.pop().map(|begin| begin..at)),
            b'"' => {
                while input.get(at).is_some_and(|byte| *byte != b'"') {
                    at += if input[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(input.len());
                values.push(begin..at);
            }
            byte if is_word(byte) => {
                at += input[at..].iter().take_while(|byte| is_word(byte)).count();
                values.push(begin..at);
            }
            _ => {}
        }
    }
    values.retain(|value| value.len() > 1 || is_word(&input[value.start]));
    values
}

/// The ranges of fields: a text, a colon, a value.
fn fields(input: &[u8], values: &[Range<usize>]) -> Vec<Range<usize>> {
    let field = |name: &Range<usize>| {
        let colon = name.end + blanks(&input[name.end..]);
        let value = colon + 1;
        let value = value + blanks(input.get(value..).filter(|_| input[colon] == b':')?);
        let value = values.iter().find(|other| other.start == value)?;
        Some(name.start..value.end)
    };
    values.iter().filter_map(field).collect()
}

fn blanks(input: &[u8]) -> usize {
    input.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// The range, extended by an adjacent comma.
fn with_comma(input: &[u8], piece: &Range<usize>) -> Range<usize> {
    let after = piece.end + blanks(&input[piece.end..]);
    if input.get(after) == Some(&b',') {
        return piece.start..after + 1;
    }
    let before = input[..piece.start].trim_ascii_end();
    let start = if before.ends_with(b",") { before.len() - 1 } else { piece.start };
    start..piece.end
}

/// Random numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn changes(input: &[u8]) -> BTreeSet<Vec<u8>> {
        (0..2_000).filter_map(|seed| change(input, seed)).collect()
    }

    #[test]
    fn most_changes_of_json_are_json_and_there_are_many() {
        let input = r#"{"id": "1", "state":{"a":[1,2]}, "version":7}"#.as_bytes();
        let changes = changes(input);
        let whole = |json: &&Vec<u8>| serde_json::from_slice::<serde_json::Value>(json).is_ok();
        let json = changes.iter().filter(whole).count();
        assert!(changes.len() > 300 && json * 2 > changes.len(), "{json} of {}", changes.len());
        for expected in [
            r#"{"id": "1", "state":{}, "version":7}"#,
            r#"{"id": "1",  "version":7}"#,
            r#"{"id": "1", "state":{"a":[1,2]}}"#,
            r#"{"id": "1 ", "state":{"a":[1,2]}, "version":7}"#,
            r#"{"id": "1","id": "1", "state":{"a":[1,2]}, "version":7}"#,
        ] {
            assert!(changes.contains(expected.as_bytes()), "{expected}");
        }
    }

    #[test]
    fn whatever_the_input_is_it_does_not_panic() {
        for input in ["", " ", "]", "\"", "\"\\", "{\"a\":", "\"a\":", "\"a\" : [", ",1,", "가\"가"]
        {
            changes(input.as_bytes());
        }
        changes(&(0..=255).collect::<Vec<u8>>());
    }
}
