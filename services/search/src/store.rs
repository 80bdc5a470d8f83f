//! Which fields of a store this service keeps, and which can be searched.

use serde::Deserialize;

use crate::bigram;

/// Longest [`StoreState::name_key`], in characters. The key is part of every cursor.
pub const MAX_NAME_KEY_CHARS: usize = 100;

/// The fields of a store's state that this service reads.
#[derive(Clone, Debug, Deserialize)]
pub struct StoreState {
    /// Its name.
    pub name: String,
    /// Its category, a code such as `cafe`.
    #[serde(default)]
    pub category: String,
    /// The district, such as `강남구`.
    #[serde(default)]
    pub region: String,
    /// The address, in one line.
    #[serde(default)]
    pub address: String,
    /// The neighbourhood, such as `역삼동`.
    #[serde(default)]
    pub neighbourhood: String,
    /// Whether it takes orders.
    pub open: bool,
    /// What it sells.
    #[serde(default)]
    pub menus: Vec<Menu>,
}

/// One thing that a store sells.
#[derive(Clone, Debug, Deserialize)]
pub struct Menu {
    /// Its name.
    pub name: String,
}

impl StoreState {
    /// The key by which results are ordered and names are compared with the text of a search.
    pub fn name_key(&self) -> String {
        name_key(&self.name)
    }

    /// The pieces of text that can be searched, most important first. Each name is one piece, however
    /// it is spaced; an address is one piece per word. The description is left out, since prose
    /// mentions everything.
    pub fn segments(&self) -> Vec<String> {
        let names = [&self.name, &self.region, &self.neighbourhood, &self.category];
        let mut segments: Vec<_> = names.map(|name| bigram::squeezed(name)).into();
        segments.extend(bigram::words(&self.address));
        segments.extend(self.menus.iter().map(|menu| bigram::squeezed(&menu.name)));
        segments.retain(|segment| !segment.is_empty());
        segments
    }
}

/// The form in which a name is ordered and compared: one word, cut at [`MAX_NAME_KEY_CHARS`].
pub fn name_key(name: &str) -> String {
    bigram::squeezed(name).chars().take(MAX_NAME_KEY_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_with_nothing_but_a_name_is_understood() {
        let state: StoreState = serde_json::from_str(r#"{"name":"가","open":true}"#).unwrap();
        assert_eq!(state.segments(), ["가"]);
    }

    #[test]
    fn the_name_comes_first_and_menus_last() {
        let json = r#"{"name":"달빛 국수","category":"korean","region":"마포구","open":true,
            "address":"서울 마포구 27","neighbourhood":"망원동","menus":[{"name":"손 만두","price":1}]}"#;
        let state: StoreState = serde_json::from_str(json).unwrap();
        let expected = ["달빛국수", "마포구", "망원동", "korean", "서울", "마포구", "27", "손만두"];
        assert_eq!(state.segments(), expected);
    }

    #[test]
    fn the_name_key_is_bounded() {
        assert_eq!(name_key("B 가"), "b가");
        assert_eq!(name_key(&"가".repeat(300)).chars().count(), MAX_NAME_KEY_CHARS);
    }
}
