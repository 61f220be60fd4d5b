//! What Nix says, and what it is answered.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{StoreDir, StorePath};
use drover_wire::{DecodeError, Decoder, MAX_BYTES};

/// Settings that are read; Nix has some two hundred.
const MAX_SETTINGS: usize = 10_000;
/// Features that a derivation may need, and outputs that it may have.
const MAX_WORDS: usize = 10_000;

/// The settings of the Nix that asks, by name, each as text.
pub type Settings = BTreeMap<String, String>;

/// Whether a derivation can be built elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Whether Nix has a slot of its own for it.
    pub is_willing: bool,
    /// The system that it is for.
    pub system: String,
    /// The derivation.
    pub derivation: StorePath,
    /// The features that it needs.
    pub features: BTreeSet<String>,
}

/// What a build that was accepted needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The paths that it reads, with all that they refer to.
    pub inputs: BTreeSet<StorePath>,
    /// The names of the outputs that are wanted.
    pub outputs: BTreeSet<String>,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Not this one.
    Decline,
    /// No derivation at all: there are no machines.
    DeclineForGood,
    /// Not now: Nix asks again within seconds.
    Postpone,
    /// It will be built.
    Accept {
        /// By what the user is told builds it.
        machine: String,
    },
}

impl Reply {
    /// Returns the lines that say so.
    pub fn lines(&self) -> String {
        match self {
            Reply::Decline => "# decline\n".to_owned(),
            Reply::DeclineForGood => "# decline-permanently\n".to_owned(),
            Reply::Postpone => "# postpone\n".to_owned(),
            Reply::Accept { machine } => format!("# accept\n{machine}\n"),
        }
    }
}

/// Returns the line that warns the user: what is no such message goes where the output of the Nix goes
/// that asks, which in a daemon is its own log.
pub(crate) fn warning(text: &str) -> String {
    const WARN: u8 = 1;
    let message = serde_json::json!({ "action": "msg", "level": WARN, "msg": text });
    format!("@nix {message}\n")
}

/// Reads the settings.
///
/// # Errors
///
/// More of them than there can be, or what is no text.
pub(crate) fn settings(from: &mut Decoder<'_>) -> Result<Settings, DecodeError> {
    let mut settings = Settings::new();
    while from.flag()? {
        let name = from.text()?.to_owned();
        let value = String::from_utf8_lossy(from.bytes(MAX_BYTES)?).into_owned();
        settings.insert(name, value);
        if settings.len() > MAX_SETTINGS {
            let count = settings.len() as u64;
            return Err(DecodeError::TooMany { what: "settings", count, max: MAX_SETTINGS });
        }
    }
    Ok(settings)
}

/// Reads a question.
///
/// # Errors
///
/// Another word than `try`, or a derivation of another store.
pub(crate) fn question(
    from: &mut Decoder<'_>,
    store_dir: &StoreDir,
) -> Result<Question, DecodeError> {
    // what else Nix may say is known to nobody
    match from.text()? {
        "try" => {}
        other => return Err(DecodeError::Number { what: "word", found: other.len() as u64 }),
    }
    Ok(Question {
        is_willing: from.flag()?,
        system: from.text()?.to_owned(),
        derivation: from.path(store_dir)?,
        features: words(from, "features")?,
    })
}

/// Reads what a build needs.
///
/// # Errors
///
/// A path of another store, or more than there can be.
pub(crate) fn order(from: &mut Decoder<'_>, store_dir: &StoreDir) -> Result<Order, DecodeError> {
    let inputs = from.list(|from| from.path(store_dir))?;
    Ok(Order { inputs, outputs: words(from, "outputs")? })
}

fn words(from: &mut Decoder<'_>, what: &'static str) -> Result<BTreeSet<String>, DecodeError> {
    from.list_up_to(what, MAX_WORDS, |from| from.text().map(str::to_owned))
}
