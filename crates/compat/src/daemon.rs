//! `nix-daemon` and `nix daemon`.
//!
//! The options are those of `src/nix/unix/daemon.cc` of Nix. Those that Nix takes only with an
//! experimental feature are taken without it.

use std::ffi::OsString;

use crate::command::Parsed;
use crate::error::CompatError;
use crate::options::{Taken, parse_command_line};

/// What a daemon listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A socket, for many clients.
    Socket,
    /// Standard input and output, for one (`--stdio`).
    Stdio,
}

/// Whom a daemon trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTrust {
    /// Those that the settings name.
    Default,
    /// Everyone (`--force-trusted`).
    Forced,
    /// Nobody (`--force-untrusted`).
    Refused,
}

/// Who carries out what a client on standard input asks for, where the store is itself a daemon's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operations {
    /// The bytes are passed on to that daemon.
    Forwarded,
    /// This process (`--process-ops`).
    Processed,
}

/// What kind of daemon is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DaemonRequest {
    /// What it listens to.
    pub listen: Listen,
    /// Whom it trusts.
    pub trust: ClientTrust,
    /// Who carries out what a client on standard input asks for.
    pub operations: Operations,
}

impl Default for DaemonRequest {
    fn default() -> DaemonRequest {
        DaemonRequest {
            listen: Listen::Socket,
            trust: ClientTrust::Default,
            operations: Operations::Forwarded,
        }
    }
}

impl DaemonRequest {
    /// Takes an option of a daemon.
    pub(crate) fn take(&mut self, flag: &str) -> Taken {
        match flag {
            "--daemon" => {}
            "--stdio" => self.listen = Listen::Stdio,
            "--force-trusted" => self.trust = ClientTrust::Forced,
            "--force-untrusted" => self.trust = ClientTrust::Refused,
            "--default-trust" => self.trust = ClientTrust::Default,
            "--process-ops" => self.operations = Operations::Processed,
            _ => return Taken::No,
        }
        Taken::Yes
    }
}

/// Parses the arguments of `nix-daemon`.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Parsed<DaemonRequest>, CompatError> {
    let mut request = DaemonRequest::default();
    let mut asked = None;
    let options = parse_command_line(arguments, |argument, _| {
        let flag = argument.to_str().unwrap_or_default();
        Ok(match crate::command::information(flag, &mut asked) {
            Taken::Yes => Taken::Yes,
            Taken::No => request.take(flag),
        })
    })?;
    Ok(Parsed::new(options, asked, request))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::command::Information;

    fn parsed(arguments: &[&str]) -> Result<Parsed<DaemonRequest>, String> {
        parse(arguments.iter().map(OsString::from).collect()).map_err(|error| error.to_string())
    }

    #[rstest]
    #[case(&[], Listen::Socket, ClientTrust::Default, Operations::Forwarded)]
    #[case(&["--daemon"], Listen::Socket, ClientTrust::Default, Operations::Forwarded)]
    #[case(&["--stdio"], Listen::Stdio, ClientTrust::Default, Operations::Forwarded)]
    #[case(&["--stdio", "--force-trusted"], Listen::Stdio, ClientTrust::Forced, Operations::Forwarded)]
    #[case(&["--force-untrusted", "--process-ops"], Listen::Socket, ClientTrust::Refused, Operations::Processed)]
    #[case(&["--force-trusted", "--default-trust"], Listen::Socket, ClientTrust::Default, Operations::Forwarded)]
    fn daemons(
        #[case] arguments: &[&str],
        #[case] listen: Listen,
        #[case] trust: ClientTrust,
        #[case] operations: Operations,
    ) {
        let Parsed::Request { request, .. } = parsed(arguments).unwrap() else {
            panic!("no request")
        };
        assert_eq!(request, DaemonRequest { listen, trust, operations });
    }

    #[test]
    fn the_store_is_a_setting() {
        let Parsed::Request { options, .. } =
            parsed(&["--stdio", "--store", "local?root=/x"]).unwrap()
        else {
            panic!("no request")
        };
        assert_eq!(options.overrides[0].name, "store");
        assert_eq!(options.overrides[0].value, "local?root=/x");
    }

    #[test]
    fn others_are_refused() {
        assert_eq!(parsed(&["--foo"]).unwrap_err(), "unrecognised flag '--foo'");
        assert_eq!(parsed(&["foo"]).unwrap_err(), "unexpected argument 'foo'");
        assert!(matches!(
            parsed(&["--version"]),
            Ok(Parsed::Information { asked: Information::Version, .. })
        ));
    }
}
