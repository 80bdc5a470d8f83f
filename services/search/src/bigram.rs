//! Text as overlapping pairs of characters, so that part of a word finds it through an index.
//!
//! Korean is searched by part of a word, and two syllables are a normal query; the trigram indexes
//! of SQLite and PostgreSQL cannot serve that. So the program cuts the text itself. A word is
//! stored as one token per character: that character with the one after it, and for the last
//! character itself alone:
//!
//! ```
//! let tokens: Vec<_> = search::bigram::tokens("커피빈").collect();
//! assert_eq!(tokens, ["커피", "피빈", "빈"]);
//! ```
//!
//! Part of a word is then a phrase, tokens one after the other: `피빈` is the phrase `피빈`, and
//! `커피빈` is `커피 피빈`. One character is a prefix: `커*` finds it wherever it stands, since
//! every character begins some token. And because each word ends in a token of one character,
//! which no phrase of pairs holds, a phrase cannot run from one word into the next: what the index
//! finds is exact and needs no second look.
//!
//! The tokens hold letters and digits only. That is what makes it safe to write them into the
//! query languages of both databases.

use unicode_normalization::UnicodeNormalization;

/// Most tokens of one store that are indexed, about as many characters. PostgreSQL counts positions
/// up to 16,383; beyond that, phrases would no longer be told apart.
pub const MAX_DOCUMENT_TOKENS: usize = 16_000;

/// The text as it is compared: lower case, and composed (NFC), since a Mac hands out Korean file
/// names and copied text in single letters (ㅋㅓㅍㅣ for 커피).
///
/// Lower case goes character by character: the usual way looks at the neighbours (Greek sigma), and
/// then part of a text would read differently from the whole.
fn fold(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).nfc().collect()
}

/// The text as it is, composed (NFC): two ways to write the same are one. See [`words`] for the rest.
pub fn composed(text: &str) -> String {
    text.nfc().collect()
}

/// The words of a text: its runs of letters and digits, folded.
pub fn words(text: &str) -> Vec<String> {
    let folded = fold(text);
    let runs = folded.split(|c: char| !c.is_alphanumeric());
    runs.filter(|run| !run.is_empty()).map(str::to_owned).collect()
}

/// The text as one word, its spaces and punctuation left out. For names: people write `커피빈
/// 낙성대역점` and `커피빈낙성대역점` alike.
pub fn squeezed(text: &str) -> String {
    fold(text).chars().filter(|c| c.is_alphanumeric()).collect()
}

/// The tokens that a word is stored as, in order: one for each of its characters.
pub fn tokens(word: &str) -> impl Iterator<Item = &str> {
    word.char_indices().map(|(at, _)| {
        let third = word[at..].char_indices().nth(2);
        &word[at..third.map_or(word.len(), |(length, _)| at + length)]
    })
}

/// How a word of a query is looked up.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// Any token that begins with this one character.
    Prefix(&'a str),
    /// These tokens, one directly after the other.
    Phrase(Vec<&'a str>),
}

/// The lookup that finds exactly the stored words that contain `word`, which must not be empty.
pub fn lookup(word: &str) -> Lookup<'_> {
    let mut tokens: Vec<_> = tokens(word).collect();
    if tokens.len() < 2 {
        return Lookup::Prefix(word);
    }
    // The last character alone would match only at the end of a stored word.
    tokens.pop();
    Lookup::Phrase(tokens)
}

/// The tokens of all `segments`, each segment once, at most [`MAX_DOCUMENT_TOKENS`].
pub fn document<'a>(segments: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    each_once(segments).flat_map(tokens).take(MAX_DOCUMENT_TOKENS).collect()
}

/// The text that the tokens of a [`document`] are cut from, a segment on each line.
pub fn lines<'a>(segments: impl IntoIterator<Item = &'a str>) -> String {
    let (mut lines, mut left) = (String::new(), MAX_DOCUMENT_TOKENS);
    for segment in each_once(segments) {
        // There is a token for each character.
        let taken = segment.chars().take(left);
        left -= taken.clone().count();
        lines.extend(taken);
        lines.push('\n');
    }
    lines
}

fn each_once<'a>(segments: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let mut seen = std::collections::HashSet::new();
    segments.into_iter().filter(move |segment| seen.insert(*segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_begins_a_token_and_the_last_stands_alone() {
        let tokens = |word| tokens(word).collect::<Vec<_>>();
        assert_eq!(tokens("가"), ["가"]);
        assert_eq!(tokens("가나"), ["가나", "나"]);
        assert_eq!(tokens("a가𝒳1"), ["a가", "가𝒳", "𝒳1", "1"]);
        assert!(tokens("").is_empty());
    }

    #[test]
    fn a_part_of_a_word_is_a_phrase_of_pairs_and_a_character_is_a_prefix() {
        assert_eq!(lookup("가"), Lookup::Prefix("가"));
        assert_eq!(lookup("가나"), Lookup::Phrase(vec!["가나"]));
        assert_eq!(lookup("가나다"), Lookup::Phrase(vec!["가나", "나다"]));
    }

    #[test]
    fn words_are_letters_and_digits_in_lower_case() {
        assert_eq!(words(" Café-B12, \"커피빈\"* (낙성대)☕"), ["café", "b12", "커피빈", "낙성대"]);
        assert!(words("\0 '\"*()☕-–·").is_empty());
        assert_eq!(squeezed("커피빈 낙성대역점 (B1)"), "커피빈낙성대역점b1");
    }

    #[test]
    fn decomposed_text_reads_like_composed_text() {
        assert_eq!(words("\u{110f}\u{1165}\u{1111}\u{1175}"), ["커피"]);
        assert_eq!(words("cafe\u{301}"), ["café"]);
    }

    #[test]
    fn a_document_holds_each_segment_once_and_is_bounded() {
        assert_eq!(document(["강남", "점", "강남"]), ["강남", "남", "점"]);
        assert_eq!(lines(["강남", "점", "강남"]), "강남\n점\n");
        let long = "가".repeat(20_000);
        assert_eq!(lines([&*long, "나"]).chars().count(), MAX_DOCUMENT_TOKENS + 2);
        assert_eq!(document([&*long]).len(), MAX_DOCUMENT_TOKENS);
    }
}
