//! What drover says to its own daemon before a client's first words.
//!
//! Clients that come by SSH all reach the daemon as one user of the machine, through a program that passes
//! on what they say. It tells whose key let them in, so that they can be told apart. A hook tells what a
//! build needs of a machine, so that it is turned away where none can be used; or it asks how it is with
//! the machines, and is answered in the place of a greeting. And whoever wants to ask the daemon itself, how
//! its builds are or to hold some, says so and goes on in the language of that. No Nix knows these messages:
//! it takes each for the wrong magic.

use std::collections::BTreeSet;

use crate::codec::{Decoder, Encoder};
use crate::dialect::read_client_magic;
use crate::error::DecodeError;

/// "drvrname", as a number that no client begins with.
const INTRODUCTION: u64 = u64::from_le_bytes(*b"drvrname");
/// "drvneeds" and "drvasked".
const NEED: u64 = u64::from_le_bytes(*b"drvneeds");
const QUESTION: u64 = u64::from_le_bytes(*b"drvasked");
/// "drvctrls".
const CONTROL: u64 = u64::from_le_bytes(*b"drvctrls");
/// Bytes of a name.
const MAX_NAME: usize = 64;
/// Features that a build needs at most.
const MAX_FEATURES: usize = 10_000;

/// How a connection begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// With a client's own first words.
    Client,
    /// With a name, which those follow.
    Introduced(String),
    /// With what a build needs, which those follow.
    Needed(Need),
    /// With a question that an [`Outlook`] answers; nothing follows.
    Asked(Need),
    /// With the wish to ask the daemon itself; what follows is no protocol of Nix.
    Control,
}

/// What a build needs of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// The system that it is for.
    pub system: String,
    /// The features that it asks for.
    pub features: BTreeSet<String>,
}

/// How it is with the machines that could take a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// One can be used.
    Usable {
        /// Slots of all of them.
        slots: u32,
        /// Those in which nothing runs.
        free: u32,
        /// Builds of all clients that aren't done.
        open: u32,
    },
    /// None is connected, and it isn't known yet whether one can be.
    Unknown {
        /// Whether that is worth waiting for by one who could do without.
        wait: Wait,
        /// What is known of each meanwhile.
        trouble: String,
    },
    /// None takes anything new, as somebody wants it so; they will again when he says so.
    Draining {
        /// Slots of all of them.
        slots: u32,
        /// Builds of all clients that aren't done.
        open: u32,
        /// Why none can be used now, for each.
        reason: String,
    },
    /// None can be used now.
    Unusable {
        /// Why, for each.
        reason: String,
    },
}

/// Whether it's worth waiting for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It may be up in a moment.
    Worthwhile,
    /// It has been waited for.
    InVain,
}

impl Outlook {
    /// Returns the answer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        match self {
            Outlook::Usable { slots, free, open } => {
                out.number(0);
                [slots, free, open].into_iter().for_each(|count| out.number(u64::from(*count)));
            }
            Outlook::Unknown { wait, trouble } => {
                out.number(1);
                out.flag(*wait == Wait::Worthwhile);
                out.text(trouble);
            }
            Outlook::Unusable { reason } => {
                out.number(2);
                out.text(reason);
            }
            Outlook::Draining { slots, open, reason } => {
                out.number(3);
                [slots, open].into_iter().for_each(|count| out.number(u64::from(*count)));
                out.text(reason);
            }
        }
        out.into_bytes()
    }

    /// Reads an answer that is whole.
    ///
    /// # Errors
    ///
    /// Something else, or less.
    pub fn from_bytes(bytes: &[u8]) -> Result<Outlook, DecodeError> {
        Outlook::decode(&mut Decoder::new(bytes))
    }

    /// Reads the answer.
    ///
    /// # Errors
    ///
    /// Something else.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Outlook, DecodeError> {
        match from.number_up_to("outlook", 3)? {
            0 => {
                Ok(Outlook::Usable { slots: count(from)?, free: count(from)?, open: count(from)? })
            }
            1 => {
                let wait = if from.flag()? { Wait::Worthwhile } else { Wait::InVain };
                Ok(Outlook::Unknown { wait, trouble: from.message()? })
            }
            2 => Ok(Outlook::Unusable { reason: from.message()? }),
            _ => {
                let (slots, open) = (count(from)?, count(from)?);
                Ok(Outlook::Draining { slots, open, reason: from.message()? })
            }
        }
    }
}

fn count(from: &mut Decoder<'_>) -> Result<u32, DecodeError> {
    let count = from.number_up_to("count", u64::from(u32::MAX))?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Returns what tells what a client's build needs.
pub fn need(need: &Need) -> Vec<u8> {
    with_need(NEED, need)
}

/// Returns the question how it is with the machines for what needs this.
pub fn question(need: &Need) -> Vec<u8> {
    with_need(QUESTION, need)
}

/// Returns what says that questions to the daemon itself follow.
pub fn control_opening() -> Vec<u8> {
    CONTROL.to_le_bytes().to_vec()
}

fn with_need(word: u64, need: &Need) -> Vec<u8> {
    let mut out = Encoder::new();
    out.number(word);
    out.text(&need.system);
    out.list(need.features.iter(), |out, feature| out.text(feature));
    out.into_bytes()
}

fn read_need(from: &mut Decoder<'_>) -> Result<Need, DecodeError> {
    let system = from.text()?.to_owned();
    let feature = |from: &mut Decoder<'_>| from.text().map(str::to_owned);
    Ok(Need { system, features: from.list_up_to("features", MAX_FEATURES, feature)? })
}

/// Returns whether somebody can be introduced by this name: up to 64 letters, digits and `._@+-`.
pub fn is_client_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain)
}

/// Returns the introduction of a client by its name.
pub fn introduction(name: &str) -> Vec<u8> {
    let mut out = Encoder::new();
    out.number(INTRODUCTION);
    out.text(name);
    out.into_bytes()
}

/// Reads what comes before a client's first words, or else its magic.
///
/// # Errors
///
/// Neither, or a name that is none.
pub fn read_opening(from: &mut Decoder<'_>) -> Result<Opening, DecodeError> {
    let mut ahead = from.clone();
    match ahead.number()? {
        INTRODUCTION => {}
        NEED => {
            from.number()?;
            return read_need(from).map(Opening::Needed);
        }
        QUESTION => {
            from.number()?;
            return read_need(from).map(Opening::Asked);
        }
        CONTROL => {
            from.number()?;
            return Ok(Opening::Control);
        }
        _ => return read_client_magic(from).map(|()| Opening::Client),
    }
    from.number()?;
    let name = std::str::from_utf8(from.bytes(MAX_NAME)?).map_err(|_| DecodeError::Utf8)?;
    match is_client_name(name) {
        true => Ok(Opening::Introduced(name.to_owned())),
        false => Err(DecodeError::Text { what: "client name", found: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::client_magic;

    #[test]
    fn a_name_comes_before_the_first_words() {
        let said = [introduction("alice@laptop"), control_opening(), client_magic()].concat();
        let mut from = Decoder::new(&said);
        let name = Opening::Introduced("alice@laptop".to_owned());
        assert_eq!(read_opening(&mut from), Ok(name));
        assert_eq!(read_opening(&mut from), Ok(Opening::Control));
        assert_eq!(read_opening(&mut from), Ok(Opening::Client));
    }

    #[test]
    fn needs_and_answers_are_read_back() {
        let kvm = Need { system: "x86_64-linux".to_owned(), features: ["kvm".to_owned()].into() };
        let said = [need(&kvm), question(&kvm)].concat();
        let mut from = Decoder::new(&said);
        assert_eq!(read_opening(&mut from), Ok(Opening::Needed(kvm.clone())));
        assert_eq!(read_opening(&mut from), Ok(Opening::Asked(kvm)));
        for outlook in [
            Outlook::Usable { slots: 8, free: 3, open: 5 },
            Outlook::Unknown { wait: Wait::Worthwhile, trouble: String::new() },
            Outlook::Unknown { wait: Wait::InVain, trouble: "b1 is silent".to_owned() },
            Outlook::Unusable { reason: "b1 is down".to_owned() },
            Outlook::Draining { slots: 8, open: 5, reason: "b1 takes nothing new".to_owned() },
        ] {
            assert_eq!(Outlook::decode(&mut Decoder::new(&outlook.encode())), Ok(outlook));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", "a b", "x\n", &"x".repeat(65)] {
            assert!(read_opening(&mut Decoder::new(&introduction(name))).is_err(), "{name}");
            assert!(!is_client_name(name));
        }
        let other = 7_u64.to_le_bytes();
        assert_eq!(read_opening(&mut Decoder::new(&other)), Err(DecodeError::Magic { found: 7 }));
    }
}
