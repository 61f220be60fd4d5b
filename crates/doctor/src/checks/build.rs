//! A small build goes there, and its output comes back.

use crate::checks::last_words;
use crate::step::Verdict;

/// What became of the build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// It was built by the machine's own `/bin/sh`, and the output came back whole.
    Back,
    /// A build by a builder that is part of Nix went there and back; one by `/bin/sh` fails like this.
    BackWithoutShell(String),
    /// The machine doesn't take it from us.
    Refused(String),
    /// It failed there.
    Failed(String),
    /// It was built, but the output didn't come back, or not as announced.
    NotBack(String),
    /// The line has no system to build for, or no slots.
    NotTried(String),
}

/// What Nix says of a path in another folder than its store's.
const OTHER_FOLDER: &str = "is not in the Nix store";

/// Judges what became of the build for a system.
pub fn judge(system: &str, came: &Came) -> Verdict {
    match came {
        Came::Back => {
            Verdict::good(format!("a build for {system} went there, and its output came back"))
        }
        Came::BackWithoutShell(why) => Verdict::odd(
            format!(
                "a build for {system} went there, and its output came back; but one whose builder is \
                 /bin/sh, as the examples of guides have it, fails there: {}",
                last_words(why)
            ),
            "nixpkgs needs no /bin/sh; where other builds do, have the sandbox there hold a static one: \
             sandbox-paths = /bin/sh=/path/to/busybox",
        ),
        Came::NotTried(why) => Verdict::wrong(why, "look at columns 2 and 4 of its line"),
        Came::Refused(why) => Verdict::wrong(
            format!("it refuses to build for us: {}", last_words(why)),
            "make the user there one of its trusted-users, and see what drover doctor says to 'trust'",
        ),
        Came::Failed(why) if why.contains(OTHER_FOLDER) => Verdict::wrong(
            format!("the store there is in another folder than this one: {}", last_words(why)),
            "paths of one are of no use in the other: have both in one folder, by NIX_STORE_DIR or by 'store' \
             (local?store=…), or name a store there by ?remote-store=",
        ),
        Came::Failed(why) => Verdict::wrong(
            format!("a build for {system} that does nothing fails there: {}", last_words(why)),
            "try it there: nix-build -E 'derivation { name = \"x\"; system = builtins.currentSystem; builder = \"/bin/sh\"; args = [ \"-c\" \"echo > $out\" ]; }'",
        ),
        Came::NotBack(why) => Verdict::wrong(
            format!("the output of a build does not come back: {}", last_words(why)),
            "there: nix-store --verify --check-contents",
        ),
    }
}
