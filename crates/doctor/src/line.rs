//! Writing a machine into a machines file.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use drover_config::StoreReference;

/// A machine to be written into a machines file.
#[derive(Clone, Debug)]
pub struct MachineLine {
    /// Its store.
    pub store: StoreReference,
    /// The systems that it builds for.
    pub systems: BTreeSet<String>,
    /// The private key to log in with.
    pub ssh_key: Option<PathBuf>,
    /// Builds at once.
    pub max_jobs: u32,
    /// Features that it has.
    pub features: BTreeSet<String>,
    /// The public host key as in a `.pub` file: kind, a space, base64.
    pub host_key: Option<String>,
}

impl fmt::Display for MachineLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |words: &BTreeSet<String>| match words.is_empty() {
            true => "-".to_owned(),
            false => words.iter().map(String::as_str).collect::<Vec<_>>().join(","),
        };
        let key = self.ssh_key.as_ref().map_or("-".to_owned(), |key| key.display().to_string());
        let host_key = match &self.host_key {
            // a whole line, as `base64 -w0 FILE.pub` would make of it
            Some(key) => data_encoding::BASE64.encode(format!("{}\n", key.trim()).as_bytes()),
            None => "-".to_owned(),
        };
        write!(
            f,
            "{} {} {key} {} 1 {} - {host_key}",
            self.store,
            listed(&self.systems),
            self.max_jobs,
            listed(&self.features),
        )
    }
}

/// Why a line can't be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// The machine is there already.
    #[error("'{store}' is listed already, on line {line}; change it there")]
    Duplicate {
        /// The store.
        store: String,
        /// The line, counted from 1.
        line: usize,
    },
    /// Something in the line would be read as something else: columns can't be quoted.
    #[error(
        "'{word}' can't stand in a machines file, which has no quoting: it has a blank, '#' or ';'"
    )]
    Quoting {
        /// What can't be written.
        word: String,
    },
}

/// Returns the text of a machines file with a line more.
///
/// # Errors
///
/// The machine is in the file, by whichever of Nix's names for it, or its line would be read
/// otherwise than it's meant.
pub fn appended(text: &str, line: &MachineLine) -> Result<String, LineError> {
    let host = |store: &StoreReference| store.authority().map(ToString::to_string);
    for (index, written) in text.lines().enumerate() {
        let written = written.split('#').next().unwrap_or_default();
        for word in written.split(';').filter_map(|entry| entry.split_ascii_whitespace().next()) {
            let with_scheme = format!("ssh://{word}");
            let listed = word.parse::<StoreReference>().or_else(|_| with_scheme.parse());
            let is_same = |store: &StoreReference| {
                *store == line.store
                    || (store.scheme().is_ssh() && host(store) == host(&line.store))
            };
            if listed.as_ref().is_ok_and(is_same) {
                let store = line.store.to_string();
                return Err(LineError::Duplicate { store, line: index + 1 });
            }
        }
    }
    let words = line
        .systems
        .iter()
        .chain(&line.features)
        .cloned()
        .chain(line.ssh_key.iter().map(|key| key.display().to_string()))
        .chain([line.store.to_string()]);
    for word in words {
        if word.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#' || c == ';') {
            return Err(LineError::Quoting { word });
        }
    }
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{text}{end}{line}\n"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use drover_config::{Builders, Origin, parse_machines};
    use rstest::rstest;

    use super::*;

    fn line() -> MachineLine {
        MachineLine {
            store: "ssh-ng://alice@b1".parse().unwrap(),
            systems: ["i686-linux", "x86_64-linux"].map(str::to_owned).into(),
            ssh_key: None,
            max_jobs: 8,
            features: ["kvm".to_owned()].into(),
            host_key: Some("ssh-ed25519 AAAAC3".to_owned()),
        }
    }

    #[test]
    fn a_line_is_read_back_as_meant() {
        let text = appended("# ours\nssh://other", &line()).unwrap();
        assert_eq!(
            text,
            "# ours\nssh://other\nssh-ng://alice@b1 i686-linux,x86_64-linux - 8 1 kvm - c3NoLWVkMjU1MTkgQUFBQUMzCg==\n"
        );
        let files = BTreeMap::from([(PathBuf::from("/m"), text)]);
        let builders = Builders {
            text: "@/m",
            origin: &Origin::Default,
            default_system: "x86_64-linux",
            dir: Path::new("/"),
        };
        let read = parse_machines(&builders, &files).unwrap();
        let machine = &read.machines[1];
        assert_eq!((machine.max_jobs, machine.systems.len()), (8, 2));
        assert_eq!(machine.public_host_key.as_ref().unwrap().line(), Some("ssh-ed25519 AAAAC3"));
    }

    #[rstest]
    #[case::same("ssh-ng://alice@b1 - - 4", true)]
    #[case::other_protocol("# x\nssh://alice@b1", true)]
    #[case::without_scheme("alice@b1 x86_64-linux", true)]
    #[case::second_entry("ssh://x; ssh://alice@b1", true)]
    #[case::other_user("ssh-ng://bob@b1", false)]
    #[case::comment("# ssh-ng://alice@b1", false)]
    fn duplicates(#[case] text: &str, #[case] is_duplicate: bool) {
        assert_eq!(
            matches!(appended(text, &line()), Err(LineError::Duplicate { .. })),
            is_duplicate
        );
    }

    #[test]
    fn nothing_is_written_that_would_be_read_otherwise() {
        let line = MachineLine { ssh_key: Some("/my keys/k".into()), ..line() };
        assert_eq!(appended("", &line), Err(LineError::Quoting { word: "/my keys/k".to_owned() }));
    }
}
