//! An import of stores, one per line.

use nudge_protocol::EntityId;
use serde_json::Value;
use store_info::{
    domain::{Menu, Store},
    import::{MAX_ERROR_CHARS, MAX_LINE_BYTES, Reader},
};

use crate::plain::{self, Fields};

/// The name that serde_json uses internally for a value kept as text. An object with only this field becomes the value
/// inside it, which a second decoder cannot know.
const KEPT_AS_TEXT: &str = "$serde_json::private::RawValue";
/// Limits on a line, and sizes of the pieces in which the file arrives, in bytes. Small, so that short inputs reach a
/// limit, too.
const BOUNDS_AND_PIECES: [(usize, usize); 3] = [(16, 1), (160, 7), (MAX_LINE_BYTES, usize::MAX)];

/// The input is the file.
///
/// - Each line that is not blank gives one result with its number, in order, wherever the file is split: a store, or a
///   short text about what is wrong.
/// - It is a store exactly if a second, plain decoder finds one, and both find the same.
/// - A line over the limit is rejected, without effect on the lines after it.
/// - Encoding and decoding a store again gives the same store.
pub fn import(input: &[u8]) {
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    if lines.iter().any(|line| has_field(line, KEPT_AS_TEXT)) {
        return;
    }
    let plainly: Vec<_> = lines.iter().map(|line| plain_store(line)).collect();
    for (bound, piece) in BOUNDS_AND_PIECES {
        assert_eq!(read(input, piece, bound), plain_lines(&lines, &plainly, bound), "{bound}");
    }
    for store in plainly.into_iter().flatten() {
        let line = serde_json::to_vec(&store).expect("texts and numbers");
        assert_eq!(read(&line, line.len(), MAX_LINE_BYTES), [(1, Some(store))]);
    }
}

/// The results: the number of each line, and its store, if it is one.
fn read(input: &[u8], piece: usize, bound: usize) -> Vec<(u64, Option<Store>)> {
    let mut reader = Reader::new(bound);
    let mut all: Vec<_> = input.chunks(piece).flat_map(|bytes| reader.feed(bytes)).collect();
    all.extend(reader.finish());
    let result = |line: store_info::import::ReadLine| {
        if let Err(error) = &line.store {
            assert!((1..=MAX_ERROR_CHARS).contains(&error.chars().count()), "{error:?}");
        }
        (line.number, line.store.ok())
    };
    all.into_iter().map(result).collect()
}

fn plain_lines(
    lines: &[&[u8]],
    stores: &[Option<Store>],
    bound: usize,
) -> Vec<(u64, Option<Store>)> {
    let mut results = Vec::new();
    for (number, (line, store)) in (1..).zip(lines.iter().zip(stores)) {
        if line.len() > bound {
            results.push((number, None));
        } else if !line.iter().all(u8::is_ascii_whitespace) {
            results.push((number, store.clone()));
        }
    }
    results
}

/// Whether an object in this text has a field of this name.
fn has_field(json: &[u8], name: &str) -> bool {
    // The name may contain escapes.
    let may = json.windows(8).any(|bytes| bytes == &name.as_bytes()[..8]);
    let may = may || json.windows(2).any(|bytes| bytes == b"\\u");
    may && serde_json::from_slice::<Value>(json).is_ok() && has_field_in(json, name)
}

fn has_field_in(json: &[u8], name: &str) -> bool {
    if let Some(fields) = Fields::read(json) {
        let inside = |value: &str| has_field_in(value.as_bytes(), name);
        return fields.0.iter().any(|(field, value)| field == name || inside(value.get()));
    }
    let values = std::str::from_utf8(json).ok().and_then(plain::list).unwrap_or_default();
    values.iter().any(|value| has_field_in(value.as_bytes(), name))
}

const STORE: [&str; 12] = [
    "id",
    "name",
    "category",
    "region",
    "address",
    "neighbourhood",
    "phone",
    "description",
    "open",
    "min_order_amount",
    "delivery_fee",
    "menus",
];

fn plain_store(line: &[u8]) -> Option<Store> {
    // Whether the text is JSON at all is not tested here.
    serde_json::from_slice::<Value>(line).ok()?;
    if std::str::from_utf8(line).is_ok_and(plain::repeats) {
        return None;
    }
    let fields = Fields::read(line).filter(|fields| fields.are_among(&STORE))?;
    let words = |name: &str, max_chars: usize| match fields.last(name) {
        Some(value) => words(value, max_chars, name == "description"),
        None => Some(String::new()),
    };
    let won = |name: &str| fields.last(name).map_or(Some(0), won);
    Some(Store {
        id: EntityId::new(&plain::json_id(fields.last("id")?)?).ok()?,
        name: words("name", 200).filter(|name| !name.is_empty())?,
        category: words("category", 100)?,
        region: words("region", 100)?,
        address: words("address", 300)?,
        neighbourhood: words("neighbourhood", 100)?,
        phone: words("phone", 50)?,
        description: words("description", 2_000)?,
        open: match fields.last("open") {
            None | Some("true") => true,
            Some("false") => false,
            Some(_) => return None,
        },
        min_order_amount: won("min_order_amount")?,
        delivery_fee: won("delivery_fee")?,
        menus: match fields.last("menus") {
            Some(menus) => plain_menus(menus)?,
            None => Vec::new(),
        },
    })
}

fn plain_menus(json: &str) -> Option<Vec<Menu>> {
    let menus = plain::list(json).filter(|menus| menus.len() <= 200)?;
    let menu = |json: &String| {
        let fields = Fields::read(json.as_bytes())?;
        let fields = Some(fields).filter(|fields| fields.are_among(&["name", "price"]))?;
        let name = words(fields.last("name")?, 100, false).filter(|name| !name.is_empty())?;
        Some(Menu { name, price: won(fields.last("price")?)? })
    };
    menus.iter().map(menu).collect()
}

fn words(json: &str, max_chars: usize, lines: bool) -> Option<String> {
    let text = plain::text(json)?;
    let allowed = |c: char| !plain::is_control(c) || (lines && c == '\n');
    (text.chars().count() <= max_chars && text.chars().all(allowed)).then_some(text)
}

fn won(json: &str) -> Option<i64> {
    plain::whole(json).filter(|won| *won <= 1_000_000_000).and_then(|won| i64::try_from(won).ok())
}
