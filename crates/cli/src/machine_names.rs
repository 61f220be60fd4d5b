//! What machines are called: each by a name that no other has.

use std::collections::BTreeMap;

use drover_config::Machine as MachineLine;

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
    match line.store_uri.authority() {
        Some(authority) => {
            let mut authority = authority.clone();
            authority.password = None;
            authority.to_string()
        }
        None => store_argument(&line.store_uri),
    }
}
