//! A batch-get request, as the owner reads it.

use nudge_protocol::{
    Object,
    sync_api::{BatchGetRequest, MAX_BATCH_IDS, MAX_FIELDS},
};
use nudge_runtime::body::parse;

use crate::plain::{self, Fields};

/// The input is the body.
///
/// - The owner accepts it exactly if a second, plain decoder does, and reads the same request.
/// - It looks things up only if the number of IDs and fields is within the documented limits.
/// - If it refuses the request, it answers 400 or 422 and names a field.
/// - Encoding and decoding again gives the same request.
pub fn sync_request(input: &[u8]) {
    let read = parse::<Object<BatchGetRequest>>(input).map(|request| request.0);
    if let Err(problem) = &read {
        assert!(matches!(problem.status.as_u16(), 400 | 422), "{problem:?}");
        assert!(problem.errors.iter().any(|error| !error.field.is_empty()), "{problem:?}");
    }
    let read = read.ok();
    let found = read.as_ref().map(parts);
    // Invalid UTF-8 is allowed in text that is skipped.
    if let Ok(text) = std::str::from_utf8(input) {
        assert_eq!(found, plainly(input), "{text}");
    }
    if let Some(request) = read {
        let few = matches!(request.ids.len(), 1..=512)
            && request.fields.as_ref().is_none_or(|fields| fields.len() <= 64);
        assert_eq!(request.check().is_ok(), few, "{request:?}");
        assert_eq!((MAX_BATCH_IDS, MAX_FIELDS), (512, 64));
        let written = serde_json::to_vec(&request).expect("texts");
        let again = parse::<Object<BatchGetRequest>>(&written).expect("what was written").0;
        assert_eq!(parts(&again), parts(&request));
    }
}

type Parts = (Vec<String>, Option<Vec<String>>);

fn parts(request: &BatchGetRequest) -> Parts {
    (request.ids.iter().map(ToString::to_string).collect(), request.fields.clone())
}

fn plainly(body: &[u8]) -> Option<Parts> {
    let request = Fields::read(body)?;
    if !request.are_among(&["ids", "fields"]) {
        return None;
    }
    let ids = plain::list(request.once("ids")??)?;
    let ids = ids.iter().map(|id| plain::json_id(id)).collect::<Option<_>>()?;
    let Some(fields) = request.once("fields")? else {
        return Some((ids, None));
    };
    let fields = plain::list(fields)?;
    let fields = fields.iter().map(|name| plain::text(name)).collect::<Option<_>>()?;
    Some((ids, Some(fields)))
}
