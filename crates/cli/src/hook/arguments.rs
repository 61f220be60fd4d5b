//! What the user typed behind `drover hook`.

use clap::{Args, Subcommand};

use crate::arguments::{SettingArguments, VerbosityArguments};

/// The arguments of `drover hook`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct HookArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<HookCommand>,
    /// How much is to be said, as Nix calls its build hook (build-hook = drover hook)
    #[arg(value_name = "VERBOSITY", value_parser = verbosity)]
    pub(crate) verbosity: Option<u64>,
}

/// Reads what Nix says, or somebody who has mistyped a command.
fn verbosity(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| {
        let all = HookCommand::augment_subcommands(clap::Command::new("hook"));
        let known: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).collect();
        format!("there is no such command; there are: {}", known.join(", "))
    })
}

/// How drover gets the builds of stock Nix.
#[derive(Debug, Subcommand)]
pub(crate) enum HookCommand {
    /// Print the lines for /etc/nix/machines by which stock Nix hands its builds to drover
    Line(LineArguments),
    /// Put these lines into the machines file, and the machines that are there into drover-machines
    Install(InstallArguments),
    /// Put the machines back into the machines file
    Uninstall(InstallArguments),
    /// Serve stock Nix as the machine of such a line
    Connect(ConnectArguments),
    /// Schedule the builds of all hooks on this machine; started when one is needed
    Daemon(DaemonArguments),
}

/// The arguments of `drover hook line`.
#[derive(Debug, Args)]
pub(crate) struct LineArguments {
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// The arguments of `drover hook install` and `uninstall`.
#[derive(Debug, Args)]
pub(crate) struct InstallArguments {
    /// Ask nothing
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// The arguments of `drover hook connect`.
#[derive(Debug, Args)]
pub(crate) struct ConnectArguments {
    /// On standard input and output, as Nix asks for it
    #[arg(long)]
    pub(crate) stdio: bool,
    /// The machines that the line stands for, by its number
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) group: usize,
}

/// The arguments of `drover hook daemon`.
#[derive(Debug, Args)]
pub(crate) struct DaemonArguments {
    /// End when nobody has needed it for so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) idle: Option<u64>,
    /// The machines, as builders in nix.conf; by default those of drover-machines
    #[arg(long, value_name = "MACHINES")]
    pub(crate) builders: Option<String>,
    /// The store of the Nix whose hooks come, as store in nix.conf
    #[arg(long, value_name = "URI")]
    pub(crate) store: Option<String>,
    /// Say "ready" on standard output, and leave the terminal
    #[arg(long)]
    pub(crate) detached: bool,
}

impl HookArguments {
    /// Returns how much is to be said.
    pub(crate) fn verbosity(&self) -> VerbosityArguments {
        match &self.command {
            Some(HookCommand::Line(arguments)) => arguments.verbosity.clone(),
            Some(HookCommand::Install(arguments) | HookCommand::Uninstall(arguments)) => {
                arguments.verbosity.clone()
            }
            _ => VerbosityArguments::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_mistypes_a_command_hears_which_there_are() {
        assert_eq!(verbosity("3"), Ok(3));
        let told = verbosity("remove").unwrap_err();
        assert!(told.ends_with("line, install, uninstall, connect, daemon"), "{told}");
    }
}
