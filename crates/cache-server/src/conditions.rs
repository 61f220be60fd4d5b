//! On which conditions something is wanted, and how much of it: tags and ranges, by RFC 9110.

use http::StatusCode;
use http::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_RANGE, RANGE};

use crate::body::{self, Answer, Body};
use crate::range::Part;

/// Returns the answer to whoever has it already.
pub(crate) fn unchanged(etag: HeaderValue) -> Answer {
    let mut answer = http::Response::new(Body::Empty);
    *answer.status_mut() = StatusCode::NOT_MODIFIED;
    answer.headers_mut().insert(ETAG, etag);
    answer
}

/// Returns the answer to whoever asks for what a file of that size doesn't have.
pub(crate) fn unsatisfiable(size: u64) -> Answer {
    let mut answer = body::status(StatusCode::RANGE_NOT_SATISFIABLE, "there is no such range\n");
    if let Ok(range) = HeaderValue::try_from(format!("bytes */{size}")) {
        answer.headers_mut().insert(CONTENT_RANGE, range);
    }
    answer
}

/// Whether a header names this tag, or any.
pub(crate) fn matches(headers: &HeaderMap, name: HeaderName, etag: &HeaderValue) -> bool {
    let plain = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let ours = plain(etag.as_bytes());
    headers.get_all(name).iter().any(|value| {
        let mut tags = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        tags.any(|tag| tag == b"*" || plain(tag) == ours)
    })
}

/// Returns the part that is asked for. Of a file that has changed since, all of it is.
pub(crate) fn asked_part(headers: &HeaderMap, etag: &HeaderValue, size: u64) -> Part {
    if headers.contains_key(IF_RANGE) && !matches(headers, IF_RANGE, etag) {
        return Part::Whole;
    }
    match headers.get(RANGE).map(HeaderValue::to_str) {
        None => Part::Whole,
        Some(Ok(range)) => Part::parse(Some(range), size),
        Some(Err(_)) => Part::Unsatisfiable,
    }
}
