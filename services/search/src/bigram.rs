//! Text as overlapping pairs of characters, so that an index finds parts of words.
//!
//! Korean is searched by parts of words, and two syllables are a normal query, which the trigram indexes
//! of SQLite and PostgreSQL cannot serve. So this program splits the text itself. A word is stored as one
//! token per character: the character and the one after it, or the last character alone:
//!
//! ```
//! let tokens: Vec<_> = search::bigram::tokens("커피빈").collect();
//! assert_eq!(tokens, ["커피", "피빈", "빈"]);
//! ```
//!
//! Part of a word is then a phrase, a sequence of tokens: `피빈` is the phrase `피빈`, and `커피빈` is
//! `커피 피빈`. A single character is a prefix: `커*` finds it anywhere, since every character begins some
//! token. And because each word ends in a token of one character, which no phrase of pairs contains, a
//! phrase cannot run from one word into the next. So the index is exact, and results need no second check.
//!
//! Tokens consist of letters and digits only, which makes it safe to write them into the query languages
//! of both databases.

use unicode_normalization::UnicodeNormalization;

/// Maximum number of indexed tokens per store, about one per character. PostgreSQL counts positions up to
/// 16,383; beyond that, it could not match phrases.
pub const MAX_DOCUMENT_TOKENS: usize = 16_000;

/// The text in the form in which it is compared: lower case and composed (NFC), since macOS hands out
/// Korean file names and copied text as single letters (ㅋㅓㅍㅣ for 커피).
///
/// Characters are lowercased one by one. `str::to_lowercase` looks at the neighbours (Greek sigma), so part
/// of a text would become something else than the same part of the whole.
fn fold(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).nfc().collect()
}

/// The text in composed form (NFC), so that two encodings of the same text are equal.
pub fn composed(text: &str) -> String {
    text.nfc().collect()
}

/// The words of a text: its runs of letters and digits, folded.
pub fn words(text: &str) -> Vec<String> {
    let folded = fold(text);
    let runs = folded.split(|c: char| !c.is_alphanumeric());
    runs.filter(|run| !run.is_empty()).map(str::to_owned).collect()
}

/// The text as one word, without spaces and punctuation. For names: people write both
/// `커피빈 낙성대역점` and `커피빈낙성대역점`.
pub fn squeezed(text: &str) -> String {
    fold(text).chars().filter(|c| c.is_alphanumeric()).collect()
}

/// The tokens of a stored word, in order, one for each character.
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
    /// These tokens, directly one after the other.
    Phrase(Vec<&'a str>),
}

/// The lookup that finds exactly those stored words that contain `word`, which must not be empty.
pub fn lookup(word: &str) -> Lookup<'_> {
    let mut tokens: Vec<_> = tokens(word).collect();
    if tokens.len() < 2 {
        return Lookup::Prefix(word);
    }
    // The last character alone would match only at the end of a stored word.
    tokens.pop();
    Lookup::Phrase(tokens)
}

/// The tokens of all `segments`, each segment once, up to [`MAX_DOCUMENT_TOKENS`].
pub fn document<'a>(segments: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    each_once(segments).flat_map(tokens).take(MAX_DOCUMENT_TOKENS).collect()
}

/// The text behind the tokens of a [`document`], one segment per line.
pub fn lines<'a>(segments: impl IntoIterator<Item = &'a str>) -> String {
    let (mut lines, mut left) = (String::new(), MAX_DOCUMENT_TOKENS);
    for segment in each_once(segments) {
        // One token per character.
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
