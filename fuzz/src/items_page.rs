//! An owner's page of items, as the kit's probe reads it.

use nudge_protocol::{
    Timestamp,
    sync_api::{ItemVersion, ItemsPage},
};
use nudge_subscriber_kit::owner_client::{FetchErrorKind, read_answer};

use crate::plain::{self, Fields};

/// A second, plain decoder rejects the same bodies, and finds the same rows in the same order and the same next page.
/// Encoding and decoding again gives the same page.
pub(crate) fn items_page(body: &[u8]) {
    let read = read_answer::<ItemsPage>(body);
    if let Err(error) = &read {
        assert_eq!((error.kind, error.retry_after), (FetchErrorKind::Broken, None));
    }
    let page = read.ok();
    // Invalid UTF-8 is allowed in text that is skipped.
    if let Ok(text) = std::str::from_utf8(body) {
        assert_eq!(page.as_ref().map(parts), plainly(body), "{text}");
    }
    if let Some(page) = page {
        let written = serde_json::to_vec(&page).expect("what was read");
        assert_eq!(read_answer::<ItemsPage>(&written).expect("what was written"), page);
    }
}

/// ID, version, whether it is deleted, time.
type Row = (String, u64, bool, Timestamp);

fn parts(page: &ItemsPage) -> (Vec<Row>, Option<String>) {
    let row =
        |row: &ItemVersion| (row.id.to_string(), row.version.get(), row.deleted, row.changed_at);
    (page.items.iter().map(row).collect(), page.next.as_ref().map(ToString::to_string))
}

fn plainly(body: &[u8]) -> Option<(Vec<Row>, Option<String>)> {
    let page = Fields::read(body)?;
    let rows = plain::list(page.once("items")??)?;
    let rows = rows.iter().map(|row| plain_row(row)).collect::<Option<_>>()?;
    match page.once("next")? {
        None => Some((rows, None)),
        Some(next) => Some((rows, Some(plain::json_id(next)?))),
    }
}

fn plain_row(row: &str) -> Option<Row> {
    let row = Fields::read(row.as_bytes())?;
    let id = plain::json_id(row.once("id")??)?;
    let version = plain::version(row.once("version")??)?;
    let deleted = match row.once("deleted")?? {
        "true" => true,
        "false" => false,
        _ => return None,
    };
    let changed_at = plain::text(row.once("changed_at")??)?.parse().ok()?;
    Some((id, version, deleted, changed_at))
}
