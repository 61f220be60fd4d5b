//! Who has signed something that nobody who is trusted has signed, for messages.

use std::collections::BTreeSet;

use drover_core::{PathInfo, Signature};

use crate::view::View;

/// Names of keys that are shown, and characters of each.
const MAX_NAMES: usize = 5;
const MAX_NAME: usize = 64;

/// Says why the signatures of a path aren't enough.
pub(crate) fn unsigned(view: &View, info: &PathInfo) -> String {
    let trusted: BTreeSet<&str> = view.options().signatures.names().collect();
    let signers: BTreeSet<&str> = info.signatures.iter().map(Signature::key).collect();
    let known: BTreeSet<&str> = signers.intersection(&trusted).copied().collect();
    if !known.is_empty() {
        let known = shown(known);
        return format!(
            "its signature by {known} doesn't fit the trusted key of that name, and no other trusted \
             key has signed it (trusted-public-keys)"
        );
    }
    let signed = match signers.is_empty() {
        true => "nobody has signed it".to_owned(),
        false => format!("it is signed by {}", shown(signers)),
    };
    let trusted = match trusted.is_empty() {
        true => "no key is trusted".to_owned(),
        false => format!("the trusted keys are {}", shown(trusted)),
    };
    format!("{signed}, and {trusted} (trusted-public-keys)")
}

/// Returns whose signatures were seen, to be put behind what Nix says; nothing where there are none.
pub(crate) fn seen(signatures: &BTreeSet<Signature>) -> String {
    let names: BTreeSet<&str> = signatures.iter().map(Signature::key).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" (saw: {})", cut(names).join(", ")),
    }
}

/// Shows names that others have given, a few of them and nothing that a terminal would obey.
fn shown(names: BTreeSet<&str>) -> String {
    let quoted = |name: String| if name == OTHERS { name } else { format!("'{name}'") };
    let names: Vec<String> = cut(names).into_iter().map(quoted).collect();
    names.join(", ")
}

/// What stands for all other names.
const OTHERS: &str = "others";

fn cut(names: BTreeSet<&str>) -> Vec<String> {
    let more = names.len() > MAX_NAMES;
    let cut = |name: &str| -> String { name.escape_debug().take(MAX_NAME).collect() };
    let shown = names.into_iter().take(MAX_NAMES).map(cut);
    shown.chain(more.then(|| OTHERS.to_owned())).collect()
}
