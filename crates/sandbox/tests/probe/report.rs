//! What can be read from inside, as JSON.

use std::collections::BTreeMap;
use std::fs;

use crate::calls;

/// One value of the report.
enum Value {
    Text(String),
    List(Vec<String>),
    Map(BTreeMap<String, String>),
}

/// Returns all but the calls.
pub(crate) fn report() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Value::Text(found.unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let file = |path: &str| Value::Text(fs::read_to_string(path).unwrap_or_default());
    let mut values = BTreeMap::new();
    let names = ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    for name in names.into_iter().chain(["NoNewPrivs", "Seccomp", "SigIgn", "SigBlk", "NSpid"]) {
        values.insert(name, line(name));
    }
    values.insert("fds", Value::Map(fds()));
    values.insert("namespaces", Value::Map(namespaces()));
    values.insert("mounts", Value::Map(mounts()));
    values.insert("hostname", file("/proc/sys/kernel/hostname"));
    values.insert("domainname", file("/proc/sys/kernel/domainname"));
    values.insert("personality", file("/proc/self/personality"));
    values.insert("oom_score_adj", file("/proc/self/oom_score_adj"));
    values.insert("uid_map", line_of("/proc/self/uid_map"));
    values.insert("gid_map", line_of("/proc/self/gid_map"));
    values.insert("cgroup", file("/proc/self/cgroup"));
    values.insert("limits", file("/proc/self/limits"));
    values.insert("interfaces", Value::List(names_in("/sys/class/net", "/proc/net/dev")));
    values.insert("environment", Value::List(environment()));
    values.insert("arguments", Value::List(std::env::args().collect()));
    let folder = std::env::current_dir().map(|it| it.display().to_string());
    values.insert("folder", Value::Text(folder.unwrap_or_default()));
    values.insert(
        "machine",
        Value::Text(rustix::system::uname().machine().to_string_lossy().into_owned()),
    );
    values.insert("session", Value::Text(session()));
    values.insert("processes", Value::List(processes()));
    values.insert("umask", line("Umask"));
    json(&values)
}

/// Returns the results of the calls.
pub(crate) fn calls() -> String {
    shown(&calls::results())
}

/// Returns the results of the calls by the numbers of x32.
#[cfg(target_arch = "x86_64")]
pub(crate) fn calls_x32() -> String {
    shown(&calls::results_x32())
}

fn shown(calls: &BTreeMap<String, String>) -> String {
    let entries: Vec<_> =
        calls.iter().map(|(name, value)| format!("  {}: {}", quote(name), quote(value))).collect();
    format!("{{\n{}\n}}", entries.join(",\n"))
}

fn line_of(path: &str) -> Value {
    let text = fs::read_to_string(path).unwrap_or_default();
    Value::Text(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn fds() -> BTreeMap<String, String> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let mut fds: BTreeMap<String, String> = entries
        .filter_map(|entry| {
            let to = fs::read_link(entry.path()).ok()?.display().to_string();
            Some((entry.file_name().to_string_lossy().into_owned(), to))
        })
        .collect();
    // The folder that is being read.
    fds.retain(|_, to| !to.ends_with("/fd"));
    fds
}

fn namespaces() -> BTreeMap<String, String> {
    ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"]
        .into_iter()
        .map(|name| {
            let link = fs::read_link(format!("/proc/self/ns/{name}"));
            (name.to_owned(), link.map(|it| it.display().to_string()).unwrap_or_default())
        })
        .collect()
}

/// Place → file system and flags.
fn mounts() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let kind = line.split_once(" - ")?.1.split(' ').next()?;
        let of_the_file_system = line.rsplit(' ').next()?.split(',').next()?;
        let mut flags: Vec<&str> = fields.get(5)?.split(',').collect();
        flags.retain(|flag| !flag.ends_with("atime"));
        let at = (*fields.get(4)?).to_owned();
        Some((at, format!("{kind} {} ({of_the_file_system})", flags.join(","))))
    };
    text.lines().filter_map(parse).collect()
}

fn names_in(folder: &str, otherwise: &str) -> Vec<String> {
    if let Ok(entries) = fs::read_dir(folder) {
        return entries.flatten().map(|it| it.file_name().to_string_lossy().into_owned()).collect();
    }
    let text = fs::read_to_string(otherwise).unwrap_or_default();
    let names = text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    names.collect()
}

fn environment() -> Vec<String> {
    std::env::vars_os()
        .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))
        .collect()
}

/// Its process, group, session, and controlling terminal.
fn session() -> String {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |it| it.1).split(' ').collect();
    let field = |at: usize| *fields.get(at).unwrap_or(&"");
    format!(
        "pid {} group {} session {} terminal {}",
        std::process::id(),
        field(2),
        field(3),
        field(4)
    )
}

fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.map(|it| it.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

fn json(values: &BTreeMap<&str, Value>) -> String {
    let list = |items: &[String]| items.iter().map(|it| quote(it)).collect::<Vec<_>>().join(", ");
    let entries: Vec<String> = values
        .iter()
        .map(|(name, value)| match value {
            Value::Text(text) => format!("  {}: {}", quote(name), quote(text.trim_end())),
            Value::List(items) => format!("  {}: [{}]", quote(name), list(items)),
            Value::Map(map) => {
                let items: Vec<_> =
                    map.iter().map(|(key, it)| format!("{}: {}", quote(key), quote(it))).collect();
                format!("  {}: {{{}}}", quote(name), items.join(", "))
            }
        })
        .collect();
    format!("{{\n{}\n}}", entries.join(",\n"))
}

fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(char))),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}
