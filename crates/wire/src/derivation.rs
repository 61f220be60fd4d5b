//! Derivations on the wire, without their input derivations.
//!
//! Follows `readDerivation` and `writeDerivation` in `src/libstore/derivations.cc` of Nix.

use std::collections::BTreeMap;

use drover_core::{OutputName, StoreDir, StorePath};
use drover_derivation::{
    BasicDerivation, ByteString, Environment, Output, OutputColumns, derivation_name,
};

use crate::codec::{Decoder, Encoder, MAX_BYTES};
use crate::error::DecodeError;

/// Appends the derivation.
pub(crate) fn encode_derivation(
    out: &mut Encoder,
    store_dir: &StoreDir,
    derivation: &BasicDerivation,
) {
    out.list(derivation.outputs.iter(), |out, (name, output)| {
        let columns = output.columns(store_dir);
        out.text(name.as_str());
        out.text(&columns.path);
        out.text(&columns.method_algorithm);
        out.text(&columns.hash);
    });
    out.paths(store_dir, &derivation.input_sources);
    out.text(&derivation.system);
    out.bytes(&derivation.builder);
    out.list(derivation.args.iter(), |out, arg| out.bytes(arg));
    out.list(derivation.environment.iter(), |out, (name, value)| {
        out.bytes(name);
        out.bytes(value);
    });
}

/// Reads the derivation that `path` names.
pub(crate) fn decode_derivation(
    from: &mut Decoder<'_>,
    store_dir: &StoreDir,
    path: &StorePath,
) -> Result<BasicDerivation, DecodeError> {
    let name = derivation_name(path)
        .ok_or_else(|| DecodeError::text("derivation path", path.base_name()))?;
    let outputs: Vec<(OutputName, Output)> = from.list(|from| {
        let output = from.text()?;
        let output: OutputName =
            output.parse().map_err(|_| DecodeError::text("output name", output))?;
        let columns = OutputColumns {
            path: from.text()?.to_owned(),
            method_algorithm: from.text()?.to_owned(),
            hash: from.text()?.to_owned(),
        };
        let value = Output::from_columns(store_dir, &name, &output, columns)
            .map_err(|error| DecodeError::text("output", &error.to_string()))?;
        Ok((output, value))
    })?;
    let outputs: BTreeMap<OutputName, Output> = outputs.into_iter().collect();
    let input_sources = from.paths(store_dir)?;
    let system = from.text()?.to_owned();
    let builder = ByteString::from(from.bytes(MAX_BYTES)?);
    let args = from.list(|from| from.bytes(MAX_BYTES).map(ByteString::from))?;
    let variables: Vec<(Vec<u8>, Vec<u8>)> =
        from.list(|from| Ok((from.bytes(MAX_BYTES)?.to_vec(), from.bytes(MAX_BYTES)?.to_vec())))?;
    let environment: Environment = variables.into_iter().collect();
    Ok(BasicDerivation { name, outputs, input_sources, system, builder, args, environment })
}
