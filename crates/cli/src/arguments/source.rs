//! What is to be built.

use clap::{ArgAction, Args};

/// What is wanted.
#[derive(Clone, Debug, Args, Default)]
#[command(next_help_heading = "What to build")]
pub(crate) struct SourceArguments {
    /// PATH.drv, PATH.drv^out,dev, PATH.drv^*, or a flake reference such as .#x; with -f or -E, an
    /// attribute
    #[arg(value_name = "INSTALLABLE")]
    pub(crate) installables: Vec<String>,
    /// Evaluate a Nix file
    #[arg(short, long, value_name = "FILE", conflicts_with = "expr")]
    pub(crate) file: Option<String>,
    /// Evaluate a Nix expression
    #[arg(short = 'E', long, value_name = "EXPR", allow_hyphen_values = true)]
    pub(crate) expr: Option<String>,
    /// An attribute of the file or expression
    #[arg(short = 'A', long = "attr", value_name = "ATTR")]
    pub(crate) attributes: Vec<String>,
    /// Pass an expression to the function in the file
    #[arg(long, num_args = 2, value_names = ["NAME", "EXPR"], action = ArgAction::Append, allow_hyphen_values = true)]
    pub(crate) arg: Vec<String>,
    /// Pass a string to the function in the file
    #[arg(long, num_args = 2, value_names = ["NAME", "VALUE"], action = ArgAction::Append, allow_hyphen_values = true)]
    pub(crate) argstr: Vec<String>,
    /// Add to the places where names in angle brackets, such as nixpkgs, are looked for
    #[arg(short = 'I', long = "include", value_name = "PATH")]
    pub(crate) include: Vec<String>,
    /// Let the evaluation of a flake look at the environment
    #[arg(long)]
    pub(crate) impure: bool,
}

impl SourceArguments {
    /// Returns a flag that only matters to evaluation, if one was typed.
    pub(crate) fn evaluation_flag(&self) -> Option<&'static str> {
        [
            ("--arg", !self.arg.is_empty()),
            ("--argstr", !self.argstr.is_empty()),
            ("-I", !self.include.is_empty()),
            ("--impure", self.impure),
        ]
        .into_iter()
        .find_map(|(flag, typed)| typed.then_some(flag))
    }
}
