//! What is sent behind the head of an answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::body::{Frame, SizeHint};

use crate::metrics::Metrics;
use crate::refusal::Refusal;

/// An answer as it goes out.
pub(crate) type Answer = http::Response<Body>;

/// Pieces of a body. They are made when they are asked for, so that nothing piles up.
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, CutShort>> + Send>>;

/// A body that can't be finished; its connection ends in the middle of it. The reason is on the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body was cut short")]
pub(crate) struct CutShort;

/// What is sent.
pub(crate) enum Body {
    /// Nothing.
    Empty,
    /// What is at hand.
    Whole(Bytes),
    /// What is made on its way.
    Pieces {
        /// The pieces.
        pieces: Pieces,
        /// Bytes that are still to come, where that is known.
        left: Option<u64>,
        /// Counts what goes out.
        metrics: Arc<Metrics>,
    },
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Body::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Body::Pieces { pieces, left, metrics } => {
                let Poll::Ready(piece) = pieces.as_mut().poll_next(context) else {
                    return Poll::Pending;
                };
                if let Some(Ok(bytes)) = &piece {
                    metrics.sent(bytes.len() as u64);
                    if let Some(left) = left {
                        *left = left.saturating_sub(bytes.len() as u64);
                    }
                }
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Whole(bytes) => bytes.is_empty(),
            Body::Pieces { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Pieces { left: Some(left), .. } => SizeHint::with_exact(*left),
            Body::Pieces { left: None, .. } => SizeHint::new(),
        }
    }
}

/// Returns an answer without anything special about it.
pub(crate) fn whole(content_type: &'static str, bytes: impl Into<Bytes>) -> Answer {
    let mut answer = http::Response::new(Body::Whole(bytes.into()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// Returns the answer to a request that is refused.
pub(crate) fn refused(refusal: &Refusal) -> Answer {
    let mut answer = whole("text/plain; charset=utf-8", format!("{}\n", refusal.says));
    *answer.status_mut() = refusal.status;
    if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
    }
    answer
}

/// Returns an answer with a status and a line.
pub(crate) fn status(status: StatusCode, says: &'static str) -> Answer {
    let mut answer = whole("text/plain; charset=utf-8", Bytes::from_static(says.as_bytes()));
    *answer.status_mut() = status;
    answer
}
