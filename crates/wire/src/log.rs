//! What a server says before each answer: messages, activities, errors.
//!
//! Follows `processStderrReturn` in `src/libstore/worker-protocol-connection.cc` and
//! `src/libutil/logging.cc` of Nix.

use drover_core::{Activity, ActivityId, ActivityResult, Field};

use crate::codec::{Decoder, Encoder};
use crate::error::DecodeError;

const NEXT: u64 = 0x6f6c_6d67;
const READ: u64 = 0x6461_7461;
const WRITE: u64 = 0x6461_7416;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

/// An error as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteError {
    /// Verbosity level, 0 (error) mostly.
    pub level: u64,
    /// What went wrong, with terminal colours where the server sends them.
    pub message: String,
    /// Exit status, for versions before 1.26.
    pub status: u64,
    /// Where it happened, outermost last.
    pub traces: Vec<String>,
}

/// One message of a server before its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogMessage {
    /// A line for people.
    Next(String),
    /// The server wants up to so many bytes of the data that it's being sent (before 1.23).
    Read(u64),
    /// Data from the server (before 1.23).
    Write(Vec<u8>),
    /// The operation failed; no answer follows.
    Error(RemoteError),
    /// The answer follows.
    Last,
    /// Something begins.
    StartActivity {
        /// Its number.
        id: ActivityId,
        /// Verbosity level.
        level: u64,
        /// What it is, by the numbers of `ActivityType`.
        kind: u64,
        /// For people.
        text: String,
        /// By kind.
        fields: Vec<Field>,
        /// What it is part of, 0 for nothing.
        parent: ActivityId,
    },
    /// Something has ended.
    StopActivity(ActivityId),
    /// Something has come further.
    Result {
        /// The activity.
        id: ActivityId,
        /// What the fields are, by the numbers of `ResultType`.
        kind: u64,
        /// By kind.
        fields: Vec<Field>,
    },
}

impl LogMessage {
    /// Returns the message that something begins.
    pub fn start(id: ActivityId, activity: &Activity<'_>, parent: ActivityId) -> LogMessage {
        LogMessage::StartActivity {
            id,
            level: activity.level(),
            kind: activity.kind(),
            text: activity.text(),
            fields: activity.fields(),
            parent,
        }
    }

    /// Returns the message that something has come further.
    pub fn result(id: ActivityId, result: &ActivityResult<'_>) -> LogMessage {
        LogMessage::Result { id, kind: result.kind(), fields: result.fields() }
    }

    /// Returns what begins, if the message says so of something that drover knows.
    pub fn begins(&self) -> Option<(ActivityId, Activity<'_>)> {
        let LogMessage::StartActivity { id, kind, text, fields, .. } = self else { return None };
        Some((*id, Activity::read(*kind, text, fields)?))
    }

    /// Returns what has come how far, if the message says so in a way that drover knows.
    pub fn comes_further(&self) -> Option<(ActivityId, ActivityResult<'_>)> {
        let LogMessage::Result { id, kind, fields } = self else { return None };
        Some((*id, ActivityResult::read(*kind, fields)?))
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Encoder, minor: u8) {
        match self {
            LogMessage::Next(text) => {
                out.number(NEXT);
                out.message(text);
            }
            LogMessage::Read(len) => {
                out.number(READ);
                out.number(*len);
            }
            LogMessage::Write(data) => {
                out.number(WRITE);
                out.bytes(data);
            }
            LogMessage::Last => out.number(LAST),
            LogMessage::Error(error) => {
                out.number(ERROR);
                error.encode(out, minor);
            }
            LogMessage::StartActivity { id, level, kind, text, fields, parent } => {
                out.number(START_ACTIVITY);
                out.number(id.0);
                out.number(*level);
                out.number(*kind);
                out.message(text);
                encode_fields(out, fields);
                out.number(parent.0);
            }
            LogMessage::StopActivity(id) => {
                out.number(STOP_ACTIVITY);
                out.number(id.0);
            }
            LogMessage::Result { id, kind, fields } => {
                out.number(RESULT);
                out.number(id.0);
                out.number(*kind);
                encode_fields(out, fields);
            }
        }
    }

    /// Reads one message.
    ///
    /// # Errors
    ///
    /// A message that is none.
    pub fn decode(from: &mut Decoder<'_>, minor: u8) -> Result<LogMessage, DecodeError> {
        Ok(match from.number()? {
            NEXT => LogMessage::Next(from.message()?),
            READ => LogMessage::Read(from.number()?),
            WRITE => LogMessage::Write(from.bytes(crate::codec::MAX_BYTES)?.to_vec()),
            LAST => LogMessage::Last,
            ERROR => LogMessage::Error(RemoteError::decode(from, minor)?),
            START_ACTIVITY => LogMessage::StartActivity {
                id: ActivityId(from.number()?),
                level: from.number()?,
                kind: from.number()?,
                text: from.message()?,
                fields: decode_fields(from)?,
                parent: ActivityId(from.number()?),
            },
            STOP_ACTIVITY => LogMessage::StopActivity(ActivityId(from.number()?)),
            RESULT => LogMessage::Result {
                id: ActivityId(from.number()?),
                kind: from.number()?,
                fields: decode_fields(from)?,
            },
            found => return Err(DecodeError::Number { what: "message type", found }),
        })
    }
}

fn encode_fields(out: &mut Encoder, fields: &[Field]) {
    out.list(fields.iter(), |out, field| match field {
        Field::Number(number) => {
            out.number(0);
            out.number(*number);
        }
        Field::Text(text) => {
            out.number(1);
            out.message(text);
        }
    });
}

/// Fields that a message may have; those of Nix have seven at the most.
const MAX_FIELDS: usize = 1000;
/// Lines that may say where an error comes from.
const MAX_TRACES: usize = 100_000;

fn decode_fields(from: &mut Decoder<'_>) -> Result<Vec<Field>, DecodeError> {
    from.list_up_to("fields of an activity", MAX_FIELDS, |from| match from.number()? {
        0 => Ok(Field::Number(from.number()?)),
        1 => Ok(Field::Text(from.message()?)),
        found => Err(DecodeError::Number { what: "field type", found }),
    })
}

impl RemoteError {
    fn encode(&self, out: &mut Encoder, minor: u8) {
        if minor < 26 {
            out.message(&self.message);
            out.number(self.status);
            return;
        }
        out.text("Error");
        out.number(self.level);
        out.text("Error");
        out.message(&self.message);
        out.number(0);
        out.list(self.traces.iter(), |out, trace| {
            out.number(0);
            out.message(trace);
        });
    }

    fn decode(from: &mut Decoder<'_>, minor: u8) -> Result<RemoteError, DecodeError> {
        if minor < 26 {
            let (message, status) = (from.message()?, from.number()?);
            return Ok(RemoteError { level: 0, message, status, traces: Vec::new() });
        }
        from.message()?;
        let level = from.number()?;
        from.message()?;
        let message = from.message()?;
        from.number_up_to("position of an error", 0)?;
        let traces = from.list_up_to("traces of an error", MAX_TRACES, |from| {
            from.number_up_to("position of a trace", 0)?;
            from.message()
        })?;
        Ok(RemoteError { level, message, status: 1, traces })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::next(LogMessage::Next("hello\n".into()))]
    #[case::last(LogMessage::Last)]
    #[case::read(LogMessage::Read(65536))]
    #[case::write(LogMessage::Write(vec![0, 255, 7]))]
    #[case::stop(LogMessage::StopActivity(ActivityId(7)))]
    #[case::error(LogMessage::Error(RemoteError { level: 0, message: "no".into(), status: 1, traces: vec!["while".into()] }))]
    #[case::start(LogMessage::start(ActivityId(1), &Activity::Build { derivation: "/s/x.drv", machine: "b1" }, ActivityId(2)))]
    #[case::result(LogMessage::result(ActivityId(1), &ActivityResult::LogLine("line")))]
    fn round_trips(#[case] message: LogMessage) {
        let mut out = Encoder::new();
        message.encode(&mut out, 38);
        let wire = out.into_bytes();
        let mut decoder = Decoder::new(&wire);
        assert_eq!(LogMessage::decode(&mut decoder, 38), Ok(message));
        assert_eq!(decoder.consumed(), wire.len());
    }

    #[test]
    fn an_old_error_is_message_and_status() {
        let error =
            RemoteError { level: 0, message: "bad".into(), status: 100, traces: Vec::new() };
        let mut out = Encoder::new();
        LogMessage::Error(error.clone()).encode(&mut out, 25);
        let wire = out.into_bytes();
        assert_eq!(LogMessage::decode(&mut Decoder::new(&wire), 25), Ok(LogMessage::Error(error)));
    }
}
