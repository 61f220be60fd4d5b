//! Reads `.drv` files.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{OutputName, StoreDir, StoreName, StorePath};

use super::MAX_ATERM_SIZE;
use super::reader::Reader;
use crate::environment::EnvironmentBuilder;
use crate::{
    BasicDerivation, ByteString, Derivation, DerivationError, DerivationProblem, Environment,
    Output, OutputColumns, OutputNames, derivation_name,
};

type Result<T> = std::result::Result<T, DerivationProblem>;

impl Derivation {
    /// Reads the bytes of a `.drv` file, where `name` is the file's name in the store without hash
    /// and `.drv`.
    ///
    /// The derivation is well-formed then; whether the paths of its outputs are the ones that
    /// follow from it is for [`Derivation::check_outputs`] to say.
    ///
    /// # Errors
    ///
    /// More than [`MAX_ATERM_SIZE`] bytes, or anything that Nix does not write. The error has the
    /// position and the rule.
    pub fn parse_aterm(
        store_dir: &StoreDir,
        name: &StoreName,
        bytes: &[u8],
    ) -> std::result::Result<Derivation, DerivationError> {
        let refuse = |problem| DerivationError::new(name, problem);
        if MAX_ATERM_SIZE < bytes.len() {
            let problem = DerivationProblem::TooLarge { size: bytes.len(), limit: MAX_ATERM_SIZE };
            return Err(refuse(problem));
        }
        let mut reader = Reader::new(bytes);
        start(&mut reader).map_err(refuse)?;
        let outputs = outputs(&mut reader, store_dir, name)?;
        let derivation = after_outputs(&mut reader, store_dir, name, outputs).map_err(refuse)?;
        derivation.kind()?;
        Ok(derivation)
    }
}

fn start(reader: &mut Reader<'_>) -> Result<()> {
    if reader.accept("Derive(") {
        return Ok(());
    }
    if !reader.accept("DrvWithVersion(") {
        return Err(DerivationProblem::Expected { at: reader.at(), expected: "Derive(" });
    }
    let at = reader.at();
    match &*reader.string()? {
        b"xp-dyn-drv" => Err(DerivationProblem::Dynamic { at }),
        version => Err(DerivationProblem::Version { at, version: ByteString::excerpt(version) }),
    }
}

fn outputs(
    reader: &mut Reader<'_>,
    store_dir: &StoreDir,
    name: &StoreName,
) -> std::result::Result<BTreeMap<OutputName, Output>, DerivationError> {
    let mut columns = Vec::new();
    let refuse = |problem| DerivationError::new(name, problem);
    reader
        .list(|reader| {
            let at = reader.at();
            reader.expect("(")?;
            let output = output_name(reader)?;
            let before = columns.last().map(|(before, _): &(OutputName, _)| before.as_str());
            check_order(at, "output", before, output.as_str())?;
            columns.push((output, output_columns(reader)?));
            reader.expect(")")
        })
        .map_err(refuse)?;
    let mut outputs = BTreeMap::new();
    for (output_name, columns) in columns {
        let output = Output::from_columns(store_dir, name, &output_name, columns)?;
        outputs.insert(output_name, output);
    }
    Ok(outputs)
}

fn output_name(reader: &mut Reader<'_>) -> Result<OutputName> {
    let at = reader.at();
    let text = reader.plain()?;
    if text == "__json" {
        return Err(DerivationProblem::JsonOutput);
    }
    text.parse().map_err(|error| DerivationProblem::OutputName {
        at,
        found: ByteString::excerpt(text.as_bytes()),
        error,
    })
}

fn output_columns(reader: &mut Reader<'_>) -> Result<OutputColumns> {
    let mut column = || {
        reader.expect(",")?;
        reader.plain().map(str::to_owned)
    };
    Ok(OutputColumns { path: column()?, method_algorithm: column()?, hash: column()? })
}

fn after_outputs(
    reader: &mut Reader<'_>,
    store_dir: &StoreDir,
    name: &StoreName,
    outputs: BTreeMap<OutputName, Output>,
) -> Result<Derivation> {
    reader.expect(",")?;
    let input_derivations = input_derivations(reader, store_dir)?;
    reader.expect(",")?;
    let input_sources = input_sources(reader, store_dir)?;
    reader.expect(",")?;
    let system = reader.plain()?.to_owned();
    reader.expect(",")?;
    let builder = reader.string()?.into_owned().into();
    reader.expect(",")?;
    let mut args: Vec<ByteString> = Vec::new();
    reader.list(|reader| {
        args.push((&*reader.string()?).into());
        Ok(())
    })?;
    args.shrink_to_fit();
    reader.expect(",")?;
    let environment = environment(reader)?;
    reader.expect(")")?;
    match reader.rest().len() {
        0 => {}
        count => return Err(DerivationProblem::Trailing { at: reader.at(), count }),
    }
    let name = name.clone();
    let basic =
        BasicDerivation { name, outputs, input_sources, system, builder, args, environment };
    Ok(Derivation { basic, input_derivations })
}

fn input_derivations(
    reader: &mut Reader<'_>,
    store_dir: &StoreDir,
) -> Result<BTreeMap<StorePath, OutputNames>> {
    let mut inputs = Vec::new();
    reader.list(|reader| {
        let at = reader.at();
        reader.expect("(")?;
        let path = store_path(reader, store_dir)?;
        if derivation_name(&path).is_none() {
            return Err(DerivationProblem::InputName { at, path });
        }
        let before = inputs.last().map(|(before, _): &(StorePath, _)| before.base_name());
        check_order(at, "input derivation", before, path.base_name())?;
        reader.expect(",")?;
        let outputs = output_names(reader)?;
        if outputs.is_empty() {
            return Err(DerivationProblem::NoInputOutputs { at, path });
        }
        inputs.push((path, outputs));
        reader.expect(")")
    })?;
    Ok(inputs.into_iter().collect())
}

fn output_names(reader: &mut Reader<'_>) -> Result<OutputNames> {
    let mut names: Vec<OutputName> = Vec::new();
    reader.list(|reader| {
        let at = reader.at();
        let name = output_name(reader)?;
        check_order(at, "output", names.last().map(OutputName::as_str), name.as_str())?;
        names.push(name);
        Ok(())
    })?;
    Ok(names.into_iter().collect())
}

fn input_sources(reader: &mut Reader<'_>, store_dir: &StoreDir) -> Result<BTreeSet<StorePath>> {
    let mut sources: Vec<StorePath> = Vec::new();
    reader.list(|reader| {
        let at = reader.at();
        let path = store_path(reader, store_dir)?;
        let before = sources.last().map(StorePath::base_name);
        check_order(at, "input source", before, path.base_name())?;
        sources.push(path);
        Ok(())
    })?;
    Ok(sources.into_iter().collect())
}

fn store_path(reader: &mut Reader<'_>, store_dir: &StoreDir) -> Result<StorePath> {
    let at = reader.at();
    let text = reader.plain()?;
    store_dir.parse(text).map_err(|error| DerivationProblem::Path { at, error })
}

fn environment(reader: &mut Reader<'_>) -> Result<Environment> {
    let mut environment = EnvironmentBuilder::default();
    let mut before: Option<Vec<u8>> = None;
    reader.list(|reader| {
        let at = reader.at();
        reader.expect("(")?;
        let name = reader.string()?;
        check_order(at, "environment variable", before.as_deref(), &*name)?;
        reader.expect(",")?;
        environment.push(&name, &reader.string()?);
        before = Some(name.into_owned());
        reader.expect(")")
    })?;
    Ok(environment.finish())
}

fn check_order<T: AsRef<[u8]> + ?Sized>(
    at: usize,
    list: &'static str,
    before: Option<&T>,
    found: &T,
) -> Result<()> {
    let found = found.as_ref();
    let excerpt = || ByteString::excerpt(found);
    match before.map(AsRef::as_ref) {
        Some(before) if before == found => {
            Err(DerivationProblem::Duplicate { at, list, found: excerpt() })
        }
        Some(before) if found < before => {
            let before = ByteString::excerpt(before);
            Err(DerivationProblem::Order { at, list, found: excerpt(), before })
        }
        _ => Ok(()),
    }
}
