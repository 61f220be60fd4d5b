//! The words of `drover store`, and the commands, that are handed on as they are: what pages and completions tell
//! of them.
//!
//! The parser takes any word there, so that those of a newer Nix are refused in Nix's way.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, value_parser};

/// A word, with what it does.
pub(crate) struct Word {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// What stands behind it, if anything does.
    takes: Option<&'static str>,
    flags: &'static [Flag],
}

/// A flag as it is written, such as `-n, --sigs-needed N`, and what it does.
pub(crate) type Flag = (&'static str, &'static str);

const DRY_RUN: Flag = ("--dry-run", "Print what would be done");
const JSON: Flag = ("--json", "Print JSON");
const ALL: Flag = ("--all", "All paths of the store");
const CLOSURE: Flag = ("-r, --recursive", "And all that they refer to");
const DERIVATION: Flag = ("--derivation", "The derivations that have made them");

/// What all words take.
const EVERYWHERE: [Flag; 3] = [
    ("--store URI", "The store: auto, daemon, unix://SOCKET, local?root=DIR, ssh-ng://HOST"),
    ("--option NAME VALUE", "Set a setting of nix.conf"),
    ("-v, --verbose", "Say more"),
];

const QUERY: &[Flag] = &[
    ("--outputs", "The outputs of derivations; so it is where nothing else is asked for"),
    ("-R, --requisites", "Paths with all that they refer to"),
    ("--references", "What they refer to"),
    ("--referrers", "What refers to them"),
    ("--referrers-closure", "What refers to them, by however many steps"),
    ("-d, --deriver", "The derivation that has made them"),
    ("--valid-derivers", "All derivations here that could make them"),
    ("-b, --binding NAME", "A variable of derivations"),
    ("--hash", "The hash of their contents"),
    ("--size", "The size of their contents"),
    ("--tree", "What they refer to, as a tree"),
    ("--graph", "The same for dot"),
    ("--graphml", "The same as GraphML"),
    ("--resolve", "What links lead to"),
    ("--roots", "What keeps them from the garbage collector"),
    ("-u, --use-output", "Of a derivation's output, not of the derivation"),
    ("-f, --force-realise", "Build first what isn't there"),
    ("--include-outputs", "With --requisites: outputs of derivations, too"),
    JSON,
];

/// The commands beside `drover store`.
pub(crate) const OWN_WORDS: [Word; 4] = [
    word(
        "daemon",
        "Serve a store to Nix's own clients and drover's, as nix-daemon does",
        None,
        &[
            ("--stdio", "Serve one client, on standard input and output"),
            (
                "--process-ops",
                "With --stdio: in this process, where a daemon stands before the store",
            ),
            ("--force-trusted", "Trust whoever connects"),
            ("--force-untrusted", "Trust nobody"),
            (
                "--default-trust",
                "Trust those whom trusted-users names; so it is where nothing is said",
            ),
        ],
    ),
    word(
        "copy",
        "Copy paths with all that they refer to, as nix copy does",
        Some("PATH"),
        &[
            ("--from URI", "The store that has them; this machine's, where it isn't given"),
            ("--to URI", "The store that gets them; this machine's, where it isn't given"),
            ("--no-check-sigs", "Take them without signatures"),
            ("-s, --substitute-on-destination", "Have the other store fetch what it can by itself"),
            ("--no-recursive", "Not what they refer to"),
            ALL,
            DERIVATION,
            JSON,
        ],
    ),
    word(
        "path-info",
        "Say what is known of paths, as nix path-info does",
        Some("PATH"),
        &[
            ("-s, --size", "The size of their contents"),
            ("-S, --closure-size", "That of all that they refer to, too"),
            ("-h, --human-readable", "Sizes with units"),
            ("--sigs", "Who has signed them"),
            ALL,
            CLOSURE,
            DERIVATION,
            JSON,
            ("--json-format N", "1 or 2: the form of it"),
        ],
    ),
    word("gc", "Delete what nothing needs, as nix store gc does", None, GC),
];

/// What a collection takes.
const GC: &[Flag] = &[DRY_RUN, ("--max N", "End when so many bytes were freed"), JSON];

/// All words, in their order.
pub(crate) const STORE_WORDS: [Word; 21] = [
    word("add", "Add files to the store, as nix-store --add does", Some("FILE"), &[JSON]),
    word(
        "add-fixed",
        "Add files under a hash of their own, as nix-store --add-fixed does",
        Some("ALGORITHM FILE"),
        &[("--recursive", "Hash what NAR archives hold, which folders need"), JSON],
    ),
    word(
        "check",
        "Check that what is registered is there, as nix-store --verify does",
        None,
        &[
            ("--check-contents", "Hash all contents, too"),
            ("--repair", "Fetch or build again what is damaged"),
        ],
    ),
    word("dead", "Print what nothing needs, as nix-store --gc --print-dead does", None, &[JSON]),
    word(
        "delete",
        "Delete paths, as nix store delete does",
        Some("PATH"),
        &[ALL, CLOSURE, ("--ignore-liveness", "Also what is needed"), JSON],
    ),
    word("dump", "Print a path as an archive, as nix-store --dump does", Some("PATH"), &[]),
    word("dump-db", "Print what is registered, as nix-store --dump-db does", Some("PATH"), &[]),
    word(
        "export",
        "Print paths with what is registered of them, as nix-store --export does",
        Some("PATH"),
        &[],
    ),
    word("gc", "Delete what nothing needs, as nix store gc does", None, GC),
    word("import", "Read what export has printed, as nix-store --import does", None, &[]),
    word("live", "Print what is needed, as nix-store --gc --print-live does", None, &[JSON]),
    word("load-db", "Register what dump-db has printed, as nix-store --load-db does", None, &[]),
    word("log", "Print the log of a build, as nix-store --read-log does", Some("PATH"), &[]),
    word(
        "optimise",
        "Keep files with the same contents once, as nix store optimise does",
        None,
        &[JSON],
    ),
    word("query", "Say what is known of paths, as nix-store --query does", Some("PATH"), QUERY),
    word(
        "realise",
        "Make paths valid, as nix-store --realise does",
        Some("PATH"),
        &[
            DRY_RUN,
            ("--add-root LINK", "Keep the results by a link"),
            ("--check", "Build again what is there, and compare"),
            ("--repair", "Fetch or build again what is damaged"),
            ("--ignore-unknown", "Pass over what nobody has"),
            ("--no-output", "Don't print the paths"),
            JSON,
        ],
    ),
    word(
        "repair",
        "Fetch what is damaged, as nix-store --repair-path does",
        Some("PATH"),
        &[ALL, CLOSURE],
    ),
    word("restore", "Unpack an archive, as nix-store --restore does", Some("PATH"), &[]),
    word(
        "roots",
        "Print what keeps paths alive, as nix-store --gc --print-roots does",
        None,
        &[JSON],
    ),
    word(
        "sign",
        "Sign paths, as nix store sign does",
        Some("PATH"),
        &[("-k, --key-file FILE", "The secret key"), ALL, CLOSURE, DERIVATION, JSON],
    ),
    word(
        "verify",
        "Check contents and signatures, as nix store verify does",
        Some("PATH"),
        &[
            ALL,
            CLOSURE,
            DERIVATION,
            ("--no-contents", "Don't hash contents"),
            ("--no-trust", "Don't look at signatures"),
            ("-n, --sigs-needed N", "How many signatures by trusted keys there must be"),
            JSON,
        ],
    ),
];

const fn word(
    name: &'static str,
    about: &'static str,
    takes: Option<&'static str>,
    flags: &'static [Flag],
) -> Word {
    Word { name, about, takes, flags }
}

impl Word {
    /// Returns the command that pages and completions tell of.
    pub(crate) fn command(&self) -> Command {
        let flags = self.flags.iter().chain(&EVERYWHERE).map(described);
        let command = Command::new(self.name).about(self.about).disable_help_flag(true).args(flags);
        match self.takes {
            None => command,
            Some(takes) => command.arg(
                Arg::new("arguments")
                    .value_names(takes.split(' '))
                    .value_parser(value_parser!(OsString))
                    .action(ArgAction::Append)
                    .num_args(1..)
                    .trailing_var_arg(true),
            ),
        }
    }
}

/// Returns a flag from how it is written.
fn described((written, help): &Flag) -> Arg {
    let (short, rest) = match written.split_once(", ") {
        Some((short, rest)) => (short.chars().nth(1), rest),
        None => (None, *written),
    };
    let mut words = rest.split(' ');
    let long = words.next().unwrap_or_default().trim_start_matches("--");
    let values: Vec<&'static str> = words.collect();
    let arg = Arg::new(long).long(long).help(*help);
    let arg = match short {
        Some(short) => arg.short(short),
        None => arg,
    };
    match values.len() {
        0 => arg.action(ArgAction::SetTrue),
        count => arg.value_names(values).num_args(count).action(ArgAction::Append),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_in_their_order_and_once() {
        assert!(STORE_WORDS.is_sorted_by(|one, other| one.name < other.name));
    }

    #[test]
    fn a_flag_is_what_is_written() {
        let arg = described(&("-n, --sigs-needed N", "How many"));
        assert_eq!((arg.get_short(), arg.get_long()), (Some('n'), Some("sigs-needed")));
        assert_eq!(arg.get_value_names().unwrap(), ["N"]);
        assert_eq!(described(&("--all", "x")).get_value_names(), None);
    }
}
