//! What machines are called: each by a name that no other has.

use std::collections::BTreeMap;

use drover_config::{Machine as MachineLine, StoreReference};

use crate::address::store_argument;
use crate::builders::LOCAL;

/// Gives each machine a name that no other has: user, host and port where that is enough.
pub(crate) struct Names {
    hosts: BTreeMap<String, usize>,
    taken: BTreeMap<String, usize>,
}

impl Names {
    pub(crate) fn of<'a>(lines: impl IntoIterator<Item = &'a MachineLine>) -> Names {
        let mut hosts = BTreeMap::new();
        for line in lines {
            *hosts.entry(short_name(line)).or_default() += 1;
        }
        Names { hosts, taken: BTreeMap::from([(LOCAL.to_owned(), 1)]) }
    }

    pub(crate) fn take(&mut self, line: &MachineLine) -> String {
        let short = short_name(line);
        let name = match self.hosts.get(&short) {
            Some(1) => short,
            _ => store_argument(&line.store_uri),
        };
        let count = self.taken.entry(name.clone()).or_default();
        *count += 1;
        if *count == 1 { name } else { format!("{name} (line {count})") }
    }
}

fn short_name(line: &MachineLine) -> String {
    short_name_of(&line.store_uri)
}

fn short_name_of(store: &StoreReference) -> String {
    match store.authority() {
        Some(authority) => {
            let mut authority = authority.clone();
            authority.password = None;
            authority.to_string()
        }
        None => store_argument(store),
    }
}

/// Says of a name that it's none of these machines'.
pub(crate) fn stranger(machine: &str, mut names: Vec<String>) -> String {
    names.sort_unstable();
    names.dedup();
    let known = match names.is_empty() {
        true => "there are none".to_owned(),
        false => format!("there are: {}", names.join(", ")),
    };
    format!("there is no machine '{machine}'; {known}")
}

/// Returns which of these machines somebody means who names one as it's called or as its line says
/// (`ssh-ng://HOST`).
pub(crate) fn meant<'a>(wanted: &str, names: &'a [String]) -> Option<&'a str> {
    let called = |name: &str| names.iter().map(String::as_str).find(|known| *known == name);
    called(wanted).or_else(|| {
        let store: StoreReference = wanted.parse().ok()?;
        called(&store_argument(&store)).or_else(|| called(&short_name_of(&store)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_found_by_their_names_and_addresses() {
        let names = ["b1", "ann@b2:2222", "ssh-ng://b3", "ssh://b3"].map(str::to_owned);
        for (wanted, expected) in [
            ("b1", Some("b1")),
            ("ssh-ng://b1", Some("b1")),
            ("ssh-ng://ann@b2:2222", Some("ann@b2:2222")),
            ("ssh://b3", Some("ssh://b3")),
            ("ssh-ng://b3", Some("ssh-ng://b3")),
            ("b9", None),
            ("ssh-ng://b9", None),
        ] {
            assert_eq!(meant(wanted, &names), expected, "{wanted}");
        }
    }
}
