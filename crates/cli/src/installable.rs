//! What the user names on the command line as something to build.
//!
//! Follows the installables of `nix build` where they are derivations or flake references.

use std::collections::BTreeSet;

use drover_core::OutputName;

/// Something to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Installable {
    /// The path of a derivation.
    Derivation {
        /// The path as it was typed.
        path: String,
        /// The outputs that are wanted.
        outputs: Outputs,
    },
    /// What `nix` evaluates.
    Flake {
        /// The reference as it was typed.
        reference: String,
        /// The outputs that are wanted.
        outputs: Outputs,
    },
}

/// An attribute of a file or an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attribute {
    /// The path of names with dots.
    pub(crate) path: String,
    /// The outputs that are wanted.
    pub(crate) outputs: Outputs,
    /// How it was named.
    pub(crate) named: Named,
}

/// How an attribute was named, which decides what is built of it where that isn't said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// By `-A`: the output that it is, as for `nix-build`.
    ByFlag,
    /// Alone: the outputs that are to be installed, as for `nix build`.
    Alone,
}

/// The outputs that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// Those that evaluation says; all of a derivation that is given as a file.
    Default,
    /// All of them.
    All,
    /// These.
    Named(BTreeSet<OutputName>),
}

/// Why something can't be built by that name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum InstallableError {
    /// What follows `^` isn't a list of outputs.
    #[error("'{text}': '{outputs}' is not a list of outputs; write ^out,dev or ^* behind the path")]
    Outputs {
        /// As typed.
        text: String,
        /// What should be outputs.
        outputs: String,
    },
    /// A Nix file.
    #[error("'{text}' is a Nix file; build it with -f {text}")]
    NixFile {
        /// As typed.
        text: String,
    },
    /// A store path that isn't a derivation.
    #[error(
        "'{text}' is a store path, but not a derivation: nothing says how to build it; give its .drv (nix-store --query --deriver {text})"
    )]
    NotADerivation {
        /// As typed.
        text: String,
    },
    /// Nothing at all.
    #[error(
        "the name of what to build is empty; give a PATH.drv, -f FILE, -E EXPR or a flake reference such as .#x"
    )]
    Empty,
}

impl Installable {
    /// Reads one argument; `store_dir` tells store paths from other files.
    pub(crate) fn parse(text: &str, store_dir: &str) -> Result<Installable, InstallableError> {
        let (name, outputs) = split_outputs(text)?;
        if name.is_empty() {
            return Err(InstallableError::Empty);
        }
        let is_reference = name.contains('#');
        if !is_reference && name.ends_with(".drv") {
            return Ok(Installable::Derivation { path: name.to_owned(), outputs });
        }
        if !is_reference && name.ends_with(".nix") {
            return Err(InstallableError::NixFile { text: name.to_owned() });
        }
        let in_store = name.strip_prefix(store_dir).is_some_and(|rest| rest.starts_with('/'));
        if in_store && !is_reference {
            return Err(InstallableError::NotADerivation { text: name.to_owned() });
        }
        Ok(Installable::Flake { reference: name.to_owned(), outputs })
    }
}

impl Attribute {
    /// Reads an attribute with the outputs behind it.
    pub(crate) fn parse(text: &str, named: Named) -> Result<Attribute, InstallableError> {
        let (path, outputs) = split_outputs(text)?;
        Ok(Attribute { path: path.to_owned(), outputs, named })
    }
}

/// Whether an argument is a derivation's path, whatever else was given.
pub(crate) fn is_derivation(text: &str) -> bool {
    split_outputs(text).is_ok_and(|(name, _)| name.ends_with(".drv") && !name.contains('#'))
}

/// Takes the outputs off the end: `^out,dev`, `^*`, or `!out` as `nix-store` writes it.
fn split_outputs(text: &str) -> Result<(&str, Outputs), InstallableError> {
    let split = text
        .rsplit_once('^')
        .or_else(|| text.rsplit_once('!').filter(|(name, _)| name.ends_with(".drv")));
    let Some((name, outputs)) = split else { return Ok((text, Outputs::Default)) };
    if outputs == "*" {
        return Ok((name, Outputs::All));
    }
    let names: Result<BTreeSet<OutputName>, _> = outputs.split(',').map(str::parse).collect();
    match names {
        Ok(names) => Ok((name, Outputs::Named(names))),
        Err(_) => {
            Err(InstallableError::Outputs { text: text.to_owned(), outputs: outputs.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn named(names: &[&str]) -> Outputs {
        Outputs::Named(names.iter().map(|name| name.parse().unwrap()).collect())
    }

    fn derivation(path: &str, outputs: Outputs) -> Installable {
        Installable::Derivation { path: path.to_owned(), outputs }
    }

    fn flake(reference: &str, outputs: Outputs) -> Installable {
        Installable::Flake { reference: reference.to_owned(), outputs }
    }

    #[rstest]
    #[case::bare("/nix/store/x.drv", derivation("/nix/store/x.drv", Outputs::Default))]
    #[case::all("/nix/store/x.drv^*", derivation("/nix/store/x.drv", Outputs::All))]
    #[case::outputs("x.drv^out,dev", derivation("x.drv", named(&["dev", "out"])))]
    #[case::old_form("x.drv!dev", derivation("x.drv", named(&["dev"])))]
    #[case::flake(".#x", flake(".#x", Outputs::Default))]
    #[case::flake_outputs("nixpkgs#hello^man", flake("nixpkgs#hello", named(&["man"])))]
    #[case::flake_drv(".#x.drv", flake(".#x.drv", Outputs::Default))]
    #[case::registry("nixpkgs", flake("nixpkgs", Outputs::Default))]
    #[case::url("github:NixOS/nix", flake("github:NixOS/nix", Outputs::Default))]
    fn parses(#[case] text: &str, #[case] expected: Installable) {
        assert_eq!(Installable::parse(text, "/nix/store").unwrap(), expected);
    }

    #[rstest]
    #[case::outputs(
        "x.drv^",
        "'x.drv^': '' is not a list of outputs; write ^out,dev or ^* behind the path"
    )]
    #[case::bad_output(
        "x.drv^a b",
        "'x.drv^a b': 'a b' is not a list of outputs; write ^out,dev or ^* behind the path"
    )]
    #[case::file("./x.nix", "'./x.nix' is a Nix file; build it with -f ./x.nix")]
    #[case::output(
        "/nix/store/x-1",
        "'/nix/store/x-1' is a store path, but not a derivation: nothing says how to build it; give its .drv (nix-store --query --deriver /nix/store/x-1)"
    )]
    #[case::empty(
        "",
        "the name of what to build is empty; give a PATH.drv, -f FILE, -E EXPR or a flake reference such as .#x"
    )]
    fn refuses(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(Installable::parse(text, "/nix/store").unwrap_err().to_string(), expected);
    }

    #[test]
    fn attributes_have_outputs() {
        for (text, outputs) in [("a.b^dev", named(&["dev"])), ("a.b", Outputs::Default)] {
            let expected = Attribute { path: "a.b".to_owned(), outputs, named: Named::Alone };
            assert_eq!(Attribute::parse(text, Named::Alone).unwrap(), expected);
        }
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            drop((Installable::parse(&text, "/nix/store"), Attribute::parse(&text, Named::Alone)));
        }
    }
}
