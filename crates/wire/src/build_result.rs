//! How a build ended, on the wire.
//!
//! Follows `src/libstore/common-protocol.cc`, `Serialise<BuildResult>` in `worker-protocol.cc` and
//! `serve-protocol.cc` of Nix. Outputs have two encodings: paths by name, and before that JSON
//! realisations under `sha256:HASH!NAME`.

use std::collections::BTreeMap;

use drover_core::{BuildStatus, Hash, HashNotation, StoreDir, StorePath};

use crate::codec::{Decoder, Encoder, MAX_BYTES};
use crate::dialect::Dialect;
use crate::error::DecodeError;
use crate::path_info::decode_signatures;

/// How a build ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildResult {
    /// Success or the class of failure.
    pub status: BuildStatus,
    /// What went wrong; empty on success.
    pub error: String,
    /// How often it was built in this request.
    pub times_built: u64,
    /// Whether two rounds differed.
    pub non_deterministic: bool,
    /// When it began, in seconds since 1970.
    pub start_time: u64,
    /// When it ended, in seconds since 1970.
    pub stop_time: u64,
    /// Processor time in user mode, in microseconds (worker protocol 1.37).
    pub cpu_user: Option<u64>,
    /// Processor time in the kernel, in microseconds (worker protocol 1.37).
    pub cpu_system: Option<u64>,
    /// The outputs by name, as far as the peer tells them.
    pub outputs: BTreeMap<String, StorePath>,
    /// What the derivation is known by where it's kept what its outputs became: who had a single
    /// derivation built keeps them under the ids that they come with. Zeros are written where nobody
    /// knows, and what is read is passed over.
    pub known_by: Option<Hash>,
}

/// What of a result's form depends on the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResultForm {
    pub(crate) times: Presence,
    pub(crate) cpu: Presence,
    pub(crate) outputs: OutputsForm,
}

/// Whether a part is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Present,
    Absent,
}

impl Presence {
    pub(crate) fn when(present: bool) -> Presence {
        if present { Presence::Present } else { Presence::Absent }
    }
}

/// How outputs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputsForm {
    None,
    Json,
    Paths,
}

impl ResultForm {
    pub(crate) fn of(dialect: &Dialect) -> ResultForm {
        ResultForm {
            times: Presence::when(dialect.since(29)),
            cpu: Presence::when(dialect.since(37)),
            outputs: if dialect.realisations_with_path() {
                OutputsForm::Paths
            } else if dialect.since(28) {
                OutputsForm::Json
            } else {
                OutputsForm::None
            },
        }
    }
}

impl BuildResult {
    /// Returns a result of a status and a message, with nothing else known.
    pub fn new(status: BuildStatus, error: impl Into<String>) -> BuildResult {
        BuildResult {
            status,
            error: error.into(),
            times_built: 0,
            non_deterministic: false,
            start_time: 0,
            stop_time: 0,
            cpu_user: None,
            cpu_system: None,
            outputs: BTreeMap::new(),
            known_by: None,
        }
    }

    /// Appends the result in the form of the worker protocol.
    pub fn encode(&self, out: &mut Encoder, dialect: &Dialect) {
        self.encode_as(out, &dialect.store_dir, ResultForm::of(dialect));
    }

    /// Reads a result in the form of the worker protocol.
    ///
    /// # Errors
    ///
    /// An unknown status, or outputs that are not store paths.
    pub fn decode(from: &mut Decoder<'_>, dialect: &Dialect) -> Result<BuildResult, DecodeError> {
        BuildResult::decode_as(from, &dialect.store_dir, ResultForm::of(dialect))
    }

    pub(crate) fn encode_as(&self, out: &mut Encoder, store_dir: &StoreDir, form: ResultForm) {
        out.number(self.status as u64);
        out.message(&self.error);
        if form.times == Presence::Present {
            out.number(self.times_built);
            out.flag(self.non_deterministic);
            out.number(self.start_time);
            out.number(self.stop_time);
        }
        if form.cpu == Presence::Present {
            encode_optional(out, self.cpu_user);
            encode_optional(out, self.cpu_system);
        }
        match form.outputs {
            OutputsForm::None => {}
            OutputsForm::Json => out.list(self.outputs.iter(), |out, (name, path)| {
                let id = self.output_id(name);
                let json = serde_json::json!({
                    "id": id, "outPath": path.base_name(), "signatures": [], "dependentRealisations": {},
                });
                out.text(&id);
                out.text(&json.to_string());
            }),
            OutputsForm::Paths => out.list(self.outputs.iter(), |out, (name, path)| {
                out.text(name);
                out.path(store_dir, path);
                out.number(0);
            }),
        }
    }

    fn output_id(&self, name: &str) -> String {
        match &self.known_by {
            Some(hash) => format!("{}!{name}", hash.display(HashNotation::Base16)),
            None => format!("sha256:{}!{name}", "0".repeat(64)),
        }
    }

    pub(crate) fn decode_as(
        from: &mut Decoder<'_>,
        store_dir: &StoreDir,
        form: ResultForm,
    ) -> Result<BuildResult, DecodeError> {
        let status = decode_status(from)?;
        let mut result = BuildResult::new(status, from.message()?);
        if form.times == Presence::Present {
            result.times_built = from.number()?;
            result.non_deterministic = from.flag()?;
            result.start_time = from.number()?;
            result.stop_time = from.number()?;
        }
        if form.cpu == Presence::Present {
            result.cpu_user = decode_optional(from)?;
            result.cpu_system = decode_optional(from)?;
        }
        let outputs: Vec<(String, StorePath)> = match form.outputs {
            OutputsForm::None => Vec::new(),
            OutputsForm::Json => from.list(decode_json_output)?,
            OutputsForm::Paths => from.list(|from| {
                let name = from.text()?.to_owned();
                let path = from.path(store_dir)?;
                decode_signatures(from)?;
                Ok((name, path))
            })?,
        };
        result.outputs = outputs.into_iter().collect();
        Ok(result)
    }
}

fn decode_status(from: &mut Decoder<'_>) -> Result<BuildStatus, DecodeError> {
    let found = from.number()?;
    BuildStatus::of_number(found).ok_or(DecodeError::Number { what: "build status", found })
}

/// Reads `sha256:HASH!NAME` and the JSON of a realisation, whose `outPath` has no directory.
fn decode_json_output(from: &mut Decoder<'_>) -> Result<(String, StorePath), DecodeError> {
    let id = from.text()?;
    let (_, name) = id.split_once('!').ok_or_else(|| DecodeError::text("output id", id))?;
    let json = from.bytes(MAX_BYTES)?;
    let bad = || DecodeError::text("realisation", &String::from_utf8_lossy(json));
    let value: serde_json::Value = serde_json::from_slice(json).map_err(|_| bad())?;
    let path = value.get("outPath").and_then(serde_json::Value::as_str).ok_or_else(bad)?;
    Ok((name.to_owned(), StorePath::from_base_name(path)?))
}

fn encode_optional(out: &mut Encoder, value: Option<u64>) {
    match value {
        None => out.number(0),
        Some(value) => {
            out.number(1);
            out.number(value);
        }
    }
}

fn decode_optional(from: &mut Decoder<'_>) -> Result<Option<u64>, DecodeError> {
    match from.number()? {
        0 => Ok(None),
        1 => Ok(Some(from.number()?)),
        found => Err(DecodeError::Number { what: "optional tag", found }),
    }
}
