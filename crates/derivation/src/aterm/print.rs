//! Writes `.drv` files, and the variations of them that are only hashed.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;
use drover_core::{OutputName, StoreDir};

use crate::{BasicDerivation, Derivation, OutputColumns};

impl Derivation {
    /// Returns the bytes of the `.drv` file.
    pub fn to_aterm(&self, store_dir: &StoreDir) -> Vec<u8> {
        let inputs = self.input_derivations.iter();
        let inputs = inputs.map(|(path, outputs)| (store_dir.display(path), outputs.iter()));
        print(&self.basic, store_dir, inputs, Outputs::AsTheyAre)
    }
}

/// Whether a derivation is written with the paths of its outputs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// With them.
    AsTheyAre,
    /// Without them, and without the values of the variables that are named like an output.
    Masked,
}

/// Returns the derivation with the hashes of its input derivations in the place of their paths.
pub(crate) fn print_modulo(
    basic: &BasicDerivation,
    store_dir: &StoreDir,
    inputs: &BTreeMap<[u8; 32], BTreeSet<&OutputName>>,
    outputs: Outputs,
) -> Vec<u8> {
    let inputs = inputs.iter().map(|(hash, names)| (HEXLOWER.encode(hash), names.iter().copied()));
    print(basic, store_dir, inputs, outputs)
}

fn print<'a>(
    basic: &'a BasicDerivation,
    store_dir: &StoreDir,
    inputs: impl Iterator<Item = (String, impl Iterator<Item = &'a OutputName>)>,
    mask: Outputs,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(size_hint(basic));
    out.extend_from_slice(b"Derive(");
    list(&mut out, basic.outputs.iter(), |out, (name, output)| {
        let mut columns = output.columns(store_dir);
        if mask == Outputs::Masked && columns.method_algorithm.is_empty() {
            columns = OutputColumns::default();
        }
        out.push(b'(');
        plain(out, name.as_str());
        for column in [columns.path, columns.method_algorithm, columns.hash] {
            out.push(b',');
            plain(out, &column);
        }
        out.push(b')');
    });
    out.push(b',');
    list(&mut out, inputs, |out, (input, names)| {
        out.push(b'(');
        plain(out, &input);
        out.push(b',');
        list(out, names, |out, name| plain(out, name.as_str()));
        out.push(b')');
    });
    out.push(b',');
    list(&mut out, basic.input_sources.iter(), |out, path| plain(out, &store_dir.display(path)));
    out.push(b',');
    plain(&mut out, &basic.system);
    out.push(b',');
    string(&mut out, &basic.builder);
    out.push(b',');
    list(&mut out, basic.args.iter(), |out, arg| string(out, arg));
    out.push(b',');
    list(&mut out, basic.environment.iter(), |out, (name, value)| {
        let masked = mask == Outputs::Masked && is_output(basic, name);
        out.push(b'(');
        string(out, name);
        out.push(b',');
        string(out, if masked { b"" } else { value });
        out.push(b')');
    });
    out.push(b')');
    out
}

fn is_output(basic: &BasicDerivation, variable: &[u8]) -> bool {
    std::str::from_utf8(variable).is_ok_and(|variable| basic.outputs.contains_key(variable))
}

/// Returns about as many bytes as the derivation takes, so that printing rarely allocates twice.
fn size_hint(basic: &BasicDerivation) -> usize {
    let args: usize = basic.args.iter().map(|arg| arg.len() + 8).sum();
    let environment = basic.environment.total_bytes() + basic.environment.len() * 8;
    let paths = (basic.outputs.len() + basic.input_sources.len()) * 128;
    1024 + args + paths + environment + environment / 16
}

fn list<T>(
    out: &mut Vec<u8>,
    items: impl Iterator<Item = T>,
    mut item: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (at, each) in items.enumerate() {
        if at != 0 {
            out.push(b',');
        }
        item(out, each);
    }
    out.push(b']');
}

/// Writes what Nix writes without escapes.
fn plain(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn string(out: &mut Vec<u8>, mut bytes: &[u8]) {
    out.push(b'"');
    while let Some(at) = bytes.iter().position(|&byte| escape(byte).is_some()) {
        let (run, rest) = bytes.split_at(at);
        out.extend_from_slice(run);
        let Some((&special, rest)) = rest.split_first() else { break };
        out.extend_from_slice(escape(special).unwrap_or_default());
        bytes = rest;
    }
    out.extend_from_slice(bytes);
    out.push(b'"');
}

fn escape(byte: u8) -> Option<&'static [u8]> {
    match byte {
        b'"' => Some(br#"\""#),
        b'\\' => Some(br"\\"),
        b'\n' => Some(br"\n"),
        b'\r' => Some(br"\r"),
        b'\t' => Some(br"\t"),
        _ => None,
    }
}
