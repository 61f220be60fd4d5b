//! From the name of a store to where it is and what is run there.
//!
//! Follows the store settings of Nix (`src/libstore/include/nix/store/*ssh-store*.hh`) and what
//! they become on the command line (`ssh-store.cc`, `legacy-ssh-store.cc`).

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use drover_config::{HostKey, Machine, Scheme, StoreReference};
use drover_store_remote::{Address, AddressError, Compression, Program, SshTarget};

/// Returns where a store is; `daemon_socket` is where the daemon of this machine listens.
///
/// # Errors
///
/// A kind of store that can't be connected to, or a parameter that can't be.
pub(crate) fn address(
    store: &StoreReference,
    daemon_socket: &Path,
) -> Result<Address, AddressError> {
    match store.scheme() {
        Scheme::Daemon => Ok(Address::Socket(daemon_socket.to_owned())),
        Scheme::Unix if store.path().is_empty() => Ok(Address::Socket(daemon_socket.to_owned())),
        Scheme::Unix => Ok(Address::Socket(PathBuf::from(store.path()))),
        Scheme::Auto => Ok(Address::Local(worker(None))),
        Scheme::Local => Ok(Address::Local(worker(Some(store_argument(store))))),
        Scheme::Ssh | Scheme::SshNg if store.is_without_ssh() => {
            Ok(Address::Local(remote_program(store)))
        }
        Scheme::Ssh | Scheme::SshNg => Ok(Address::Ssh(ssh_target(store)?, remote_program(store))),
        Scheme::File | Scheme::Http | Scheme::Https | Scheme::S3 => {
            Err(AddressError::Cache { uri: store.to_string() })
        }
        _ => Err(AddressError::Scheme { uri: store.to_string() }),
    }
}

/// Returns where a machine is, with what its other columns say of the way there.
///
/// # Errors
///
/// Those of [`address`].
pub(crate) fn whole_address(line: &Machine, daemon_socket: &Path) -> Result<Address, AddressError> {
    match line.store_uri.scheme().is_ssh() {
        true => address(&line.store_uri_with_params(), daemon_socket),
        false => address(&line.store_uri, daemon_socket),
    }
}

/// Returns the name of a store in the words that all releases of Nix take: Nix 2.8 doesn't know
/// `local://?root=…`, and none reads a path that isn't a parameter as encoded.
pub(crate) fn store_argument(store: &StoreReference) -> String {
    let text = store.to_string();
    match text.strip_prefix("local://") {
        Some(path) if path.starts_with('/') && path.contains('%') && !path.contains('?') => {
            format!("local?root={path}")
        }
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(parameters) => format!("local{parameters}"),
        None => text,
    }
}

/// Whether what serves there keeps no logs: `nix-store --serve` doesn't.
pub(crate) fn keeps_no_logs(address: &Address) -> bool {
    matches!(
        address,
        Address::Ssh(_, Program::Serve { .. }) | Address::Local(Program::Serve { .. })
    )
}

fn worker(store: Option<String>) -> Program {
    Program::Worker { command: vec!["nix-daemon".to_owned()], store }
}

/// Returns what is run at the other end of SSH.
fn remote_program(store: &StoreReference) -> Program {
    let given: Vec<String> = store
        .param("remote-program")
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect();
    let remote_store = store.param("remote-store").filter(|uri| !uri.is_empty()).map(str::to_owned);
    let default = |program: &str| match given.is_empty() {
        true => vec![program.to_owned()],
        false => given.clone(),
    };
    match store.scheme() {
        Scheme::Ssh => Program::Serve { command: default("nix-store"), store: remote_store },
        _ => Program::Worker { command: default("nix-daemon"), store: remote_store },
    }
}

fn ssh_target(store: &StoreReference) -> Result<SshTarget, AddressError> {
    let bad_host = || AddressError::Host { uri: store.to_string() };
    let authority = store.authority().ok_or_else(bad_host)?;
    let host = authority.host.to_string();
    let is_flag = |text: &str| text.is_empty() || text.starts_with('-');
    if is_flag(&host) || authority.user.as_deref().is_some_and(is_flag) {
        return Err(bad_host());
    }
    Ok(SshTarget {
        host,
        user: authority.user.clone(),
        port: authority.port,
        key: store.param("ssh-key").filter(|key| !key.is_empty()).map(PathBuf::from),
        host_key: host_key(store)?,
        compression: compression(store)?,
    })
}

fn bad_parameter(store: &StoreReference, name: &str, value: &str) -> AddressError {
    AddressError::Parameter {
        uri: store.to_string(),
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

/// Returns how many connections may be open at once, where the user bounds that. Nix takes 1 for 0.
///
/// # Errors
///
/// A value that is no number.
pub(crate) fn connections(store: &StoreReference) -> Result<Option<NonZeroU32>, AddressError> {
    let name = "max-connections";
    let Some(value) = store.param(name) else { return Ok(None) };
    let number = value.parse().map_err(|_| bad_parameter(store, name, value))?;
    Ok(Some(NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)))
}

fn compression(store: &StoreReference) -> Result<Compression, AddressError> {
    match store.param("compress") {
        None | Some("false" | "no" | "0") => Ok(Compression::AsConfigured),
        Some("true" | "yes" | "1") => Ok(Compression::On),
        Some(value) => Err(bad_parameter(store, "compress", value)),
    }
}

/// Returns the line of a `.pub` file that the parameter encodes.
fn host_key(store: &StoreReference) -> Result<Option<String>, AddressError> {
    let name = "base64-ssh-public-host-key";
    let Some(value) = store.param(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let key = HostKey::from_base64(value);
    let line = key.as_ref().and_then(HostKey::line).map(str::to_owned);
    line.map(Some).ok_or_else(|| bad_parameter(store, name, value))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn parsed(uri: &str) -> Result<Address, AddressError> {
        address(&uri.parse().unwrap(), Path::new("/run/daemon"))
    }

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn ng(command: &str, store: Option<&str>) -> Program {
        Program::Worker { command: words(command), store: store.map(str::to_owned) }
    }

    fn serve(command: &str, store: Option<&str>) -> Program {
        Program::Serve { command: words(command), store: store.map(str::to_owned) }
    }

    fn target(host: &str) -> SshTarget {
        SshTarget { host: host.to_owned(), ..SshTarget::default() }
    }

    #[rstest]
    #[case::daemon("daemon", Address::Socket("/run/daemon".into()))]
    #[case::socket("unix:///x/socket?root=/r", Address::Socket("/x/socket".into()))]
    #[case::usual_socket("unix://", Address::Socket("/run/daemon".into()))]
    #[case::local("local?root=/r", Address::Local(ng("nix-daemon", Some("local?root=/r"))))]
    #[case::folder("/r", Address::Local(ng("nix-daemon", Some("/r"))))]
    #[case::host("ssh-ng://b1", Address::Ssh(target("b1"), ng("nix-daemon", None)))]
    #[case::serve("ssh://b1", Address::Ssh(target("b1"), serve("nix-store", None)))]
    #[case::ipv6("ssh-ng://[::1]", Address::Ssh(target("::1"), ng("nix-daemon", None)))]
    #[case::user_and_port(
        "ssh://u@b1:2222",
        Address::Ssh(
            SshTarget { user: Some("u".into()), port: Some(2222), ..target("b1") },
            serve("nix-store", None),
        ),
    )]
    #[case::parameters(
        "ssh-ng://b1?ssh-key=/k&compress=true&remote-program=/x/nix-daemon%20-v&remote-store=/r&trusted=true&max-connections=4&system-features=kvm",
        Address::Ssh(
            SshTarget { key: Some("/k".into()), compression: Compression::On, ..target("b1") },
            ng("/x/nix-daemon -v", Some("/r")),
        ),
    )]
    #[case::without_ssh("ssh-ng://localhost", Address::Local(ng("nix-daemon", None)))]
    #[case::shim("ssh://localhost?remote-program=/s", Address::Local(serve("/s", None)))]
    #[case::with_ssh(
        "ssh://localhost:22",
        Address::Ssh(SshTarget { port: Some(22), ..target("localhost") }, serve("nix-store", None)),
    )]
    fn addresses(#[case] uri: &str, #[case] expected: Address) {
        assert_eq!(parsed(uri).unwrap(), expected);
    }

    #[test]
    fn decodes_host_keys() {
        // base64 of "ssh-ed25519 AAAAC3Nz root@b1\n"
        let uri = "ssh://b1?base64-ssh-public-host-key=c3NoLWVkMjU1MTkgQUFBQUMzTnogcm9vdEBiMQo=";
        let Ok(Address::Ssh(target, _)) = parsed(uri) else { panic!("{uri}") };
        assert_eq!(target.host_key.as_deref(), Some("ssh-ed25519 AAAAC3Nz root@b1"));
    }

    #[rstest]
    #[case::cache(
        "https://cache.nixos.org",
        "store 'https://cache.nixos.org' is a binary cache: paths are copied from it and to it (drover copy, substituters), and drover path-info looks at it; nothing else is done with one"
    )]
    #[case::unknown(
        "dummy://x",
        "store 'dummy://x' is not one that drover can connect to; it knows daemon, unix://SOCKET, ssh-ng://HOST and ssh://HOST"
    )]
    #[case::compress(
        "ssh://b1?compress=maybe",
        "store 'ssh://b1?compress=maybe': parameter 'compress' can't be 'maybe'"
    )]
    #[case::host_key(
        "ssh://b1?base64-ssh-public-host-key=eA",
        "store 'ssh://b1?base64-ssh-public-host-key=eA': parameter 'base64-ssh-public-host-key' can't be 'eA'"
    )]
    fn refuses(#[case] uri: &str, #[case] expected: &str) {
        assert_eq!(parsed(uri).unwrap_err().to_string(), expected);
    }

    #[rstest]
    #[case("ssh-ng://b1", Some(None))]
    #[case("ssh-ng://b1?max-connections=4", Some(Some(4)))]
    #[case("unix:///s?max-connections=1", Some(Some(1)))]
    #[case("daemon?max-connections=0", Some(Some(1)))]
    #[case("ssh://b1?max-connections=x", None)]
    #[case("ssh://b1?max-connections=-1", None)]
    fn bounds(#[case] uri: &str, #[case] expected: Option<Option<u32>>) {
        let found = connections(&uri.parse().unwrap());
        assert_eq!(found.as_ref().ok().map(|bound| bound.map(NonZeroU32::get)), expected);
        if let Err(error) = found {
            let value = uri.split_once('=').unwrap().1;
            let told = format!("store '{uri}': parameter 'max-connections' can't be '{value}'");
            assert_eq!(error.to_string(), told);
        }
    }

    #[rstest]
    #[case("local?root=/r", "local?root=/r")]
    #[case("/a/b", "/a/b")]
    #[case("/a b/\u{fc}", "local?root=/a%20b/%C3%BC")]
    #[case("local", "local")]
    #[case("unix:///s?root=/r", "unix:///s?root=/r")]
    #[case("daemon", "daemon")]
    fn old_words(#[case] uri: &str, #[case] expected: &str) {
        assert_eq!(store_argument(&uri.parse().unwrap()), expected);
    }
}
