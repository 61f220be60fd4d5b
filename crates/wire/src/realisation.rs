//! Which path an output of a derivation became, on the wire.
//!
//! Follows `Serialise<Realisation>` in `src/libstore/worker-protocol.cc` of Nix 2.35 (outputs named by
//! the path of their derivation, with a feature), and the cases `RegisterDrvOutput` and
//! `QueryRealisation` of `src/libstore/daemon.cc` up to 2.34 (named by a hash; JSON from 1.31 on).

use std::collections::BTreeSet;

use drover_core::{DrvOutput, OutputName, Signature, StoreDir, StorePath};

use crate::codec::{Decoder, Encoder, MAX_BYTES};
use crate::dialect::Dialect;
use crate::error::DecodeError;
use crate::path_info::{decode_signatures, encode_signatures};

/// An output of a derivation, as a version names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutputId {
    /// By the hash of its derivation, up to Nix 2.34.
    Hash(DrvOutput),
    /// By the path of its derivation, with the feature `realisation-with-path-not-hash`.
    Derivation(StorePath, OutputName),
}

/// The path that an output became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealisedOutput {
    /// The output.
    pub output: OutputId,
    /// The path that holds it.
    pub path: StorePath,
    /// Who vouches for it.
    pub signatures: BTreeSet<Signature>,
}

impl OutputId {
    pub(crate) fn encode(&self, out: &mut Encoder, store_dir: &StoreDir) {
        match self {
            OutputId::Hash(output) => out.text(&output.to_string()),
            OutputId::Derivation(path, name) => {
                out.path(store_dir, path);
                out.text(name.as_str());
            }
        }
    }

    pub(crate) fn decode(
        from: &mut Decoder<'_>,
        dialect: &Dialect,
    ) -> Result<OutputId, DecodeError> {
        if dialect.realisations_with_path() {
            let path = from.path(&dialect.store_dir)?;
            let name = from.text()?;
            let name = name.parse().map_err(|_| DecodeError::text("output name", name))?;
            return Ok(OutputId::Derivation(path, name));
        }
        parse_hash(from.text()?)
    }
}

fn parse_hash(text: &str) -> Result<OutputId, DecodeError> {
    let output = text.parse().map_err(|_| DecodeError::text("derivation output", text))?;
    Ok(OutputId::Hash(output))
}

impl RealisedOutput {
    /// Appends the argument of `RegisterDrvOutput`.
    pub(crate) fn encode(&self, out: &mut Encoder, dialect: &Dialect) {
        if dialect.realisations_with_path() {
            self.output.encode(out, &dialect.store_dir);
            out.path(&dialect.store_dir, &self.path);
            encode_signatures(out, &self.signatures);
        } else if dialect.since(31) {
            out.text(&self.to_json(dialect));
        } else {
            self.output.encode(out, &dialect.store_dir);
            out.text(self.path.base_name());
        }
    }

    pub(crate) fn decode(
        from: &mut Decoder<'_>,
        dialect: &Dialect,
    ) -> Result<RealisedOutput, DecodeError> {
        if !dialect.realisations_with_path() && dialect.since(31) {
            return RealisedOutput::from_json(from.bytes(MAX_BYTES)?);
        }
        let output = OutputId::decode(from, dialect)?;
        if dialect.realisations_with_path() {
            let path = from.path(&dialect.store_dir)?;
            return Ok(RealisedOutput { output, path, signatures: decode_signatures(from)? });
        }
        let path = StorePath::from_base_name(from.text()?)?;
        Ok(RealisedOutput { output, path, signatures: BTreeSet::new() })
    }

    /// Appends the answer to `QueryRealisation`.
    pub(crate) fn encode_answer(
        out: &mut Encoder,
        dialect: &Dialect,
        answer: Option<&RealisedOutput>,
    ) {
        out.number(u64::from(answer.is_some()));
        let Some(realised) = answer else { return };
        if dialect.realisations_with_path() {
            out.path(&dialect.store_dir, &realised.path);
            encode_signatures(out, &realised.signatures);
        } else if dialect.since(31) {
            out.text(&realised.to_json(dialect));
        } else {
            out.path(&dialect.store_dir, &realised.path);
        }
    }

    pub(crate) fn decode_answer(
        from: &mut Decoder<'_>,
        dialect: &Dialect,
        asked: &OutputId,
    ) -> Result<Option<RealisedOutput>, DecodeError> {
        // before there were tags this was a set, of which only one can be
        if from.number_up_to("count of realisations", 1)? == 0 {
            return Ok(None);
        }
        if !dialect.realisations_with_path() && dialect.since(31) {
            return RealisedOutput::from_json(from.bytes(MAX_BYTES)?).map(Some);
        }
        let path = from.path(&dialect.store_dir)?;
        let signatures = if dialect.realisations_with_path() {
            decode_signatures(from)?
        } else {
            BTreeSet::new()
        };
        Ok(Some(RealisedOutput { output: asked.clone(), path, signatures }))
    }

    fn to_json(&self, dialect: &Dialect) -> String {
        let id = match &self.output {
            OutputId::Hash(output) => output.to_string(),
            OutputId::Derivation(path, name) => {
                format!("{}!{name}", dialect.store_dir.display(path))
            }
        };
        let signatures: Vec<String> = self.signatures.iter().map(ToString::to_string).collect();
        serde_json::json!({
            "id": id, "outPath": self.path.base_name(), "signatures": signatures,
            "dependentRealisations": {},
        })
        .to_string()
    }

    fn from_json(json: &[u8]) -> Result<RealisedOutput, DecodeError> {
        let bad = || DecodeError::text("realisation", &String::from_utf8_lossy(json));
        let value: serde_json::Value = serde_json::from_slice(json).map_err(|_| bad())?;
        let text = |name| value.get(name).and_then(serde_json::Value::as_str).ok_or_else(bad);
        let signatures = value.get("signatures").and_then(serde_json::Value::as_array);
        Ok(RealisedOutput {
            output: parse_hash(text("id")?)?,
            path: StorePath::from_base_name(text("outPath")?)?,
            // one that is none vouches for nothing, as in path infos
            signatures: signatures
                .into_iter()
                .flatten()
                .filter_map(|each| each.as_str()?.parse().ok())
                .collect(),
        })
    }
}
