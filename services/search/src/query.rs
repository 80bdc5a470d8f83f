//! What a request asks for, read from its parameters. No I/O. Input from outside becomes checked values, and
//! the text of `q` becomes an expression that is safe to hand to the database.

use nudge_runtime::{database::Kind, paging::PageSize, problem::FieldError};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    bigram::{self, Lookup},
    cursor::Cursor,
    store,
};

/// Longest `q`, `category` and `region`, in characters.
pub const MAX_TEXT_CHARS: usize = 200;
/// Results per page.
pub const PAGE: PageSize = PageSize { default: 20, max: 100 };

/// The parameters of a search, unchecked. One with an empty value counts as absent.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Parameters {
    /// Words that must all be found, each in the name, region, neighbourhood, category, address or
    /// menus. Part of a word is enough.
    #[param(max_length = 200, nullable = false, example = "커피")]
    q: Option<String>,
    /// Exactly this category.
    #[param(max_length = 200, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$", nullable = false)]
    category: Option<String>,
    /// Exactly this region.
    #[param(max_length = 200, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$", nullable = false)]
    region: Option<String>,
    /// Only open stores, or only closed ones.
    #[param(value_type = Option<bool>, nullable = false)]
    open: Option<String>,
    /// Maximum number of results.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20, nullable = false)]
    limit: Option<String>,
    /// The `next` of the previous page.
    #[param(max_length = 2000, pattern = "^([0-9a-f]{2})*$", nullable = false)]
    cursor: Option<String>,
}

/// A search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreQuery {
    /// The text to find; `None` finds every store.
    pub text: Option<Text>,
    /// Exactly this category.
    pub category: Option<String>,
    /// Exactly this region.
    pub region: Option<String>,
    /// Only open stores, or only closed ones.
    pub open: Option<bool>,
    /// Maximum number of results.
    pub limit: usize,
    /// Only results after this one.
    pub after: Option<Cursor>,
}

impl StoreQuery {
    /// Checks the parameters; the error lists all that are invalid.
    pub fn parse(parameters: Parameters) -> Result<Self, Vec<FieldError>> {
        let mut wrong = Vec::new();
        let mut check = |field: &str, value: Option<String>, rule: fn(&str) -> Option<String>| {
            let value = value.filter(|value| !value.trim().is_empty())?;
            if let Some(detail) = rule(&value) {
                wrong.push(FieldError { field: field.to_owned(), detail });
                return None;
            }
            Some(value)
        };
        let query = Self {
            text: check("q", parameters.q, too_long).map(|text| Text::new(&text)),
            category: check("category", parameters.category, not_plain)
                .map(|category| bigram::composed(&category)),
            region: check("region", parameters.region, not_plain)
                .map(|region| bigram::composed(&region)),
            open: check("open", parameters.open, |v| must(v.parse::<bool>(), "be true or false"))
                .map(|value| value == "true"),
            limit: check("limit", parameters.limit, |v| must(limit(v), "be from 1 to 100"))
                .and_then(|value| limit(&value).ok())
                .unwrap_or(PAGE.default),
            after: check("cursor", parameters.cursor, |v| {
                must(v.parse::<Cursor>(), "be the `next` of another page")
            })
            .and_then(|value| value.parse().ok()),
        };
        if wrong.is_empty() { Ok(query) } else { Err(wrong) }
    }
}

fn must<T, E>(parsed: Result<T, E>, what: &str) -> Option<String> {
    parsed.is_err().then(|| format!("must {what}"))
}

fn limit(text: &str) -> Result<usize, ()> {
    let asked = text.parse().map_err(drop)?;
    PAGE.rows(Some(asked)).map_err(drop)
}

fn too_long(text: &str) -> Option<String> {
    let long = text.chars().nth(MAX_TEXT_CHARS).is_some();
    long.then(|| format!("must be at most {MAX_TEXT_CHARS} characters"))
}

fn not_plain(text: &str) -> Option<String> {
    // PostgreSQL does not allow NUL in text at all.
    let control = text.chars().any(char::is_control);
    too_long(text).or_else(|| control.then(|| "must not contain control characters".to_owned()))
}

/// The text of a search, split into words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    words: Vec<String>,
    name_key: String,
}

impl Text {
    /// Splits a text into words. Only letters and digits remain.
    pub fn new(text: &str) -> Self {
        let mut words = bigram::words(text);
        words.sort_unstable();
        words.dedup();
        // A word that is part of another one is found along with it.
        let all = words.clone();
        words.retain(|word| !all.iter().any(|other| other != word && other.contains(word)));
        Self { words, name_key: store::name_key(text) }
    }

    /// Whether it contains nothing that can be found, only spaces, punctuation and symbols.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The text in the form in which it is compared with names.
    pub fn name_key(&self) -> &str {
        &self.name_key
    }

    /// The words of more than two characters. Finding all pairs of such a word is not enough: they must also
    /// follow one another.
    pub fn long_words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str).filter(|word| word.chars().nth(2).is_some())
    }

    /// A `tsquery` that matches rows with every token of the words, in any order. Must not be called on an
    /// empty text.
    pub fn parts(&self) -> String {
        let word = |word: &String| match bigram::lookup(word) {
            Lookup::Prefix(token) => format!("'{token}':*"),
            Lookup::Phrase(tokens) => format!("'{}'", tokens.join("' & '")),
        };
        self.words.iter().map(word).collect::<Vec<_>>().join(" & ")
    }

    /// The condition in the query language of the database: an FTS5 expression, or a `tsquery`.
    /// Must not be called on an empty text: FTS5 rejects an empty expression.
    ///
    /// Nothing in it needs escaping: every token consists of letters and digits, in quotes.
    pub fn expression(&self, kind: Kind) -> String {
        let word = |word: &String| match (kind, bigram::lookup(word)) {
            (Kind::Sqlite, Lookup::Prefix(token)) => format!("\"{token}\" *"),
            (Kind::Sqlite, Lookup::Phrase(tokens)) => format!("\"{}\"", tokens.join(" ")),
            (Kind::Postgres, Lookup::Prefix(token)) => format!("'{token}':*"),
            (Kind::Postgres, Lookup::Phrase(tokens)) => format!("('{}')", tokens.join("' <-> '")),
        };
        let words: Vec<_> = self.words.iter().map(word).collect();
        words.join(match kind {
            Kind::Sqlite => " AND ",
            Kind::Postgres => " & ",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrong(set: impl FnOnce(&mut Parameters)) -> Vec<String> {
        let mut parameters = Parameters::default();
        set(&mut parameters);
        let errors = StoreQuery::parse(parameters).expect_err("something is wrong");
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(wrong(|p| p.q = Some("가".repeat(201))), ["q"]);
        assert_eq!(wrong(|p| p.region = some("강\0남")), ["region"]);
        assert_eq!(wrong(|p| p.category = Some("x".repeat(201))), ["category"]);
        assert_eq!(wrong(|p| p.open = some("yes")), ["open"]);
        for limit in ["0", "101", "-1", "1.5", "ten", "99999999999"] {
            assert_eq!(wrong(|p| p.limit = some(limit)), ["limit"]);
        }
        for cursor in ["x", "abc", "30", "zz", "3020", &"30".repeat(1_001), "가가"] {
            assert_eq!(wrong(|p| p.cursor = some(cursor)), ["cursor"], "{cursor}");
        }
        let both = |p: &mut Parameters| (p.open, p.limit) = (some("1"), some("0"));
        assert_eq!(wrong(both), ["open", "limit"]);
    }

    #[test]
    fn nothing_given_and_blanks_are_the_same() {
        let blank = || Some(" ".to_owned());
        let blanks = Parameters {
            q: blank(),
            category: blank(),
            region: Some(String::new()),
            open: blank(),
            limit: blank(),
            cursor: blank(),
        };
        let query = StoreQuery::parse(blanks).unwrap();
        assert_eq!(query, StoreQuery::parse(Parameters::default()).unwrap());
        assert_eq!((query.text, query.limit), (None, PAGE.default));
    }

    #[test]
    fn a_text_of_200_characters_is_taken() {
        let q = Some("가".repeat(200));
        assert!(StoreQuery::parse(Parameters { q, ..Parameters::default() }).is_ok());
    }

    #[test]
    fn words_become_phrases_and_single_characters_prefixes() {
        let text = Text::new("커피빈 (서) 커피빈 피빈 OR");
        let (sqlite, postgres) = (text.expression(Kind::Sqlite), text.expression(Kind::Postgres));
        assert_eq!(sqlite, "\"or\" AND \"서\" * AND \"커피 피빈\"");
        assert_eq!(postgres, "('or') & '서':* & ('커피' <-> '피빈')");
        assert_eq!(text.parts(), "'or' & '서':* & '커피' & '피빈'");
        assert_eq!(text.long_words().collect::<Vec<_>>(), ["커피빈"]);
    }

    proptest! {
        #[test]
        fn expressions_hold_nothing_from_outside_but_letters_and_digits(text in any::<String>()) {
            let text = Text::new(&text);
            let own = |c: char| "\"*'<->:&() AND".contains(c) || c.is_alphanumeric();
            prop_assert!(text.expression(Kind::Sqlite).chars().all(own));
            prop_assert!(text.expression(Kind::Postgres).chars().all(own));
            prop_assert!(text.parts().chars().all(own));
            prop_assert!(text.long_words().flat_map(str::chars).all(char::is_alphanumeric));
            // Every quote has its partner: nothing closed one early.
            for word in text.expression(Kind::Sqlite).split(" AND ").filter(|w| !w.is_empty()) {
                prop_assert_eq!(word.matches('"').count(), 2);
            }
        }
    }
}
