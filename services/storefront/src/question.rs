//! What a list of stores is asked of, and how. Pure: parameters in, a request out.

use nudge_protocol::{EntityId, subject::encode_token};
use nudge_runtime::{paging::PageSize, problem::FieldError};
use utoipa::ToSchema;

use crate::stores::name_key;

/// Stores per page of a list.
pub const PAGE: PageSize = PageSize { default: 20, max: 100 };
/// Longest text, category and region, in characters. A source may allow less, and says so.
pub const MAX_TEXT_CHARS: usize = 200;
/// Longest place to continue after, in characters.
pub const MAX_PLACE_CHARS: usize = 2_000;

/// A service that chooses stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Stores that match a text and filters.
    Search,
    /// Stores to advertise in a place.
    Ads,
    /// Stores that a user keeps.
    Favourites,
}

impl Source {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Search, Self::Ads, Self::Favourites];

    /// The service's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Ads => "ads",
            Self::Favourites => "favourites",
        }
    }

    /// The parameters that it takes, besides `limit`.
    const fn takes(self) -> &'static [&'static str] {
        match self {
            Self::Search => &["q", "category", "region", "open", "cursor"],
            Self::Ads => &["category", "region"],
            Self::Favourites => &["user", "after"],
        }
    }
}

/// The parameters of all sources, unchecked. An empty text counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Words to find.
    pub q: Option<String>,
    /// Exactly this category.
    pub category: Option<String>,
    /// Exactly this region.
    pub region: Option<String>,
    /// Only open stores, or only closed ones.
    pub open: Option<bool>,
    /// Whose favourites.
    pub user: Option<String>,
    /// Where a page of search begins.
    pub cursor: Option<String>,
    /// Where a page of favourites begins.
    pub after: Option<String>,
}

/// What a source is asked, checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Who is asked.
    pub source: Source,
    /// The path there.
    pub path: String,
    /// The parameters there, in a fixed order, so that equal questions are equal.
    pub query: Vec<(&'static str, String)>,
    /// Most stores to choose.
    pub limit: usize,
    /// Where the page begins; `None` for the first.
    pub place: Option<String>,
    /// What the local view can tell of it; `None` if nothing.
    pub filter: Option<Filter>,
}

/// Which stores pass. Empty texts pass all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Exactly this region.
    pub region: String,
    /// Exactly this category.
    pub category: String,
    /// Only open stores, or only closed ones.
    pub open: Option<bool>,
    /// What the [key of the name](name_key) contains.
    pub name_key: String,
}

impl Question {
    /// Checks the parameters.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn new(
        source: Source,
        parameters: Parameters,
        limit: usize,
    ) -> Result<Self, Vec<FieldError>> {
        let Parameters { q, category, region, open, user, cursor, after } = parameters;
        let texts = [
            ("q", q),
            ("category", category),
            ("region", region),
            ("open", open.map(|open| open.to_string())),
            ("user", user),
            ("cursor", cursor),
            ("after", after),
        ];
        let given = texts.into_iter().filter_map(|(name, text)| Some((name, text?)));
        let query: Vec<_> = given.filter(|(_, text)| !text.is_empty()).collect();
        let mut wrong: Vec<_> =
            query.iter().filter_map(|(name, text)| fault(source, name, text)).collect();
        let text = |of: &str| query.iter().find(|(name, _)| *name == of).map(|(_, text)| text);
        if source == Source::Favourites && text("user").is_none() {
            wrong.push(field("user", "must be given: whose favourites to list".to_owned()));
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let copy = |of| text(of).cloned().unwrap_or_default();
        let filter = Filter {
            region: copy("region"),
            category: copy("category"),
            // Only open stores are advertised.
            open: if source == Source::Ads { Some(true) } else { open },
            name_key: name_key(&copy("q").replace(char::is_control, "")),
        };
        let path = match source {
            Source::Search => "/stores".to_owned(),
            Source::Ads => "/ads".to_owned(),
            Source::Favourites => {
                let user = EntityId::new(&copy("user")).expect("checked above");
                format!("/users/{}/favourites", encode_token(&user))
            }
        };
        let place = text("cursor").or(text("after")).cloned();
        let mut query: Vec<_> = query.into_iter().filter(|(name, _)| *name != "user").collect();
        query.push(("limit", limit.to_string()));
        let filter = (source != Source::Favourites).then_some(filter);
        Ok(Self { source, path, query, limit, place, filter })
    }
}

fn field(name: &str, detail: String) -> FieldError {
    FieldError { field: name.to_owned(), detail }
}

/// What is wrong with one parameter, if anything.
fn fault(source: Source, name: &'static str, text: &str) -> Option<FieldError> {
    let longer = |max: usize| text.chars().nth(max).is_some();
    let detail = match name {
        _ if !source.takes().contains(&name) => {
            let takes = source.takes().join(", ");
            format!("is no parameter of {}, which takes {takes}, limit", source.name())
        }
        "q" if longer(MAX_TEXT_CHARS) => format!("must be at most {MAX_TEXT_CHARS} characters"),
        "category" | "region" if longer(MAX_TEXT_CHARS) || text.contains(char::is_control) => {
            format!("must be at most {MAX_TEXT_CHARS} characters, none of them a control character")
        }
        "cursor" | "after" if longer(MAX_PLACE_CHARS) => {
            "must be the `next` of another page".to_owned()
        }
        // Percent-encoded or not, an HTTP client takes these two out of a path.
        "user" if [".", ".."].contains(&text) => "must not be . or ..".to_owned(),
        "user" => EntityId::new(text).err()?.to_string(),
        _ => return None,
    };
    Some(field(name, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn wrong(source: Source, parameters: Parameters) -> Vec<String> {
        let errors = Question::new(source, parameters, 20).expect_err("something is wrong");
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn each_source_is_asked_in_its_own_words() {
        let parameters =
            Parameters { q: some("달빛 국수"), open: Some(true), ..Parameters::default() };
        let asked = Question::new(Source::Search, parameters, 5).unwrap();
        assert_eq!(asked.path, "/stores");
        let query = [("q", "달빛 국수"), ("open", "true"), ("limit", "5")];
        assert_eq!(asked.query, query.map(|(name, text)| (name, text.to_owned())));
        let filter = asked.filter.unwrap();
        assert_eq!((filter.name_key.as_str(), filter.open), ("달빛국수", Some(true)));

        let parameters = Parameters { region: some("마포구"), ..Parameters::default() };
        let asked = Question::new(Source::Ads, parameters, 20).unwrap();
        assert_eq!((asked.path.as_str(), asked.query.len()), ("/ads", 2));
        assert_eq!(asked.filter.unwrap().open, Some(true));

        let parameters =
            Parameters { user: some("a/b"), after: some("p"), ..Parameters::default() };
        let asked = Question::new(Source::Favourites, parameters, 20).unwrap();
        assert_eq!(asked.path, "/users/a%2Fb/favourites");
        assert_eq!((asked.place, asked.filter), (some("p"), None));
    }

    #[test]
    fn everything_wrong_is_named() {
        let long = "가".repeat(201);
        let all = Parameters {
            q: Some(long.clone()),
            category: some("a\u{0}b"),
            region: Some(long),
            cursor: Some("0".repeat(2_001)),
            user: some("kim"),
            ..Parameters::default()
        };
        assert_eq!(wrong(Source::Search, all), ["q", "category", "region", "user", "cursor"]);
        let others = Parameters { q: some("x"), open: Some(true), ..Parameters::default() };
        assert_eq!(wrong(Source::Ads, others), ["q", "open"]);
        assert_eq!(wrong(Source::Favourites, Parameters::default()), ["user"]);
        for user in [".", "..", "\u{0}", &"x".repeat(201)] {
            let parameters = Parameters { user: some(user), ..Parameters::default() };
            assert_eq!(wrong(Source::Favourites, parameters), ["user"], "{user}");
        }
    }

    #[test]
    fn an_empty_parameter_is_none() {
        let empty = Parameters { q: some(""), cursor: some(""), ..Parameters::default() };
        let asked = Question::new(Source::Search, empty, 20).unwrap();
        assert_eq!(asked, Question::new(Source::Search, Parameters::default(), 20).unwrap());
    }
}
