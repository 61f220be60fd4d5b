//! Which store is meant by a name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use drover_store_local::{Access, Layout, LayoutError, Place, Surroundings, Uid};
use rstest::rstest;

const HOME: (&str, &str) = ("HOME", "/home/me");

/// Decides in a place where these variables are set and these paths are there; those that end in a
/// `+` can be written.
fn decide(
    name: &str,
    variables: &[(&str, &str)],
    there: &[&str],
    uid: Uid,
) -> Result<Place, LayoutError> {
    let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
    let has = |path: &Path, mark: &str| {
        path.to_str().is_some_and(|path| there.contains(&format!("{path}{mark}").as_str()))
    };
    let around = Surroundings {
        variable: &|name| variables.get(name).map(|value| (*value).to_owned()),
        exists: &|path| has(path, "") || has(path, "+"),
        writable: &|path| has(path, "+"),
        uid,
    };
    Layout::decide(&name.parse().expect("a store"), &around)
}

fn local(name: &str, variables: &[(&str, &str)]) -> Layout {
    match decide(name, variables, &[], Uid::Root) {
        Ok(Place::Local(layout)) => layout,
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::plain("local", &[], "/nix/store", "/nix/store", "/nix/var/nix", "/nix/var/log/nix")]
#[case::variables(
    "local",
    &[("NIX_STORE_DIR", "/s/"), ("NIX_STATE_DIR", "/a/../v"), ("NIX_LOG_DIR", "/l")],
    "/s", "/s", "/v", "/l",
)]
#[case::old_variable("local", &[("NIX_STORE", "/s")], "/s", "/s", "/nix/var/nix", "/nix/var/log/nix")]
#[case::empty_variable(
    "local", &[("NIX_STORE_DIR", "")], "/nix/store", "/nix/store", "/nix/var/nix", "/nix/var/log/nix",
)]
#[case::root(
    "local?root=/r", &[("NIX_STATE_DIR", "/v")],
    "/nix/store", "/r/nix/store", "/r/nix/var/nix", "/r/nix/var/log/nix",
)]
#[case::path("/r", &[], "/nix/store", "/r/nix/store", "/r/nix/var/nix", "/r/nix/var/log/nix")]
#[case::each(
    "local?store=/s&real=/x&state=/v&log=/l", &[], "/s", "/x", "/v", "/l",
)]
fn folders(
    #[case] name: &str,
    #[case] variables: &[(&str, &str)],
    #[case] store_dir: &str,
    #[case] real: &str,
    #[case] state: &str,
    #[case] log: &str,
) {
    let layout = local(name, variables);
    assert_eq!(layout.store_dir.as_str(), store_dir);
    let found = [&layout.real, &layout.state, &layout.log].map(|path| path.to_str().expect("text"));
    assert_eq!(found, [real, state, log]);
    assert_eq!(layout.access, Access::ReadWrite);
}

#[test]
fn read_only() {
    assert_eq!(local("local?read-only=true", &[]).access, Access::ReadOnly);
    let refused = decide("local?read-only=maybe", &[], &[], Uid::Root);
    assert!(matches!(refused, Err(LayoutError::Switch { .. })), "{refused:?}");
}

#[rstest]
#[case::root_of_a_machine(&["/nix/var/nix+"], Uid::Root, "local")]
#[case::single_user(&["/nix/var/nix+"], Uid::Other, "local")]
#[case::with_a_daemon(
    &["/nix/var/nix", "/nix/var/nix/daemon-socket/socket"], Uid::Other, "daemon",
)]
#[case::nothing_at_all(&[], Uid::Other, "own")]
#[case::nothing_and_root(&[], Uid::Root, "local")]
#[case::not_writable_and_no_daemon(&["/nix/var/nix"], Uid::Other, "local")]
fn what_auto_means(#[case] there: &[&str], #[case] uid: Uid, #[case] expected: &str) {
    let found = match decide("auto", &[HOME], there, uid).expect("a place") {
        Place::Local(layout) => {
            assert_eq!(layout.real, Path::new("/nix/store"));
            "local"
        }
        Place::Own(layout) => {
            assert_eq!(layout.real, Path::new("/home/me/.local/share/nix/root/nix/store"));
            assert_eq!(layout.store_dir.as_str(), "/nix/store");
            "own"
        }
        Place::Daemon(socket) => {
            assert_eq!(socket, Path::new("/nix/var/nix/daemon-socket/socket"));
            "daemon"
        }
    };
    assert_eq!(found, expected);
}

#[test]
fn a_store_of_ones_own_only_where_nothing_says_otherwise() {
    let own = |variables: &[(&str, &str)]| {
        matches!(decide("auto", variables, &[], Uid::Other), Ok(Place::Own(_)))
    };
    assert!(own(&[("XDG_DATA_HOME", "/d")]));
    assert!(!own(&[HOME, ("NIX_STORE_DIR", "/nix/store")]));
    assert!(!own(&[HOME, ("NIX_STATE_DIR", "/v")]));
    assert!(!own(&[]), "nowhere to put it");
    let socket = decide("daemon", &[("NIX_DAEMON_SOCKET_PATH", "/run/x")], &[], Uid::Other);
    assert_eq!(socket, Ok(Place::Daemon(PathBuf::from("/run/x"))));
    let elsewhere = decide("ssh://host", &[], &[], Uid::Other);
    assert!(matches!(elsewhere, Err(LayoutError::NotLocal { .. })), "{elsewhere:?}");
    let relative = decide("local?root=x", &[], &[], Uid::Other);
    assert!(matches!(relative, Err(LayoutError::Relative { .. })), "{relative:?}");
}
