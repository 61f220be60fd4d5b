//! Whether anything is known of a host's key, without connecting: a server shuts out those who come often
//! and don't log in (`PerSourcePenalties`).

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;

use crate::variables::variable;

/// Whether no file that `ssh` asks has a line for the host, by what `ssh -G` has printed. Where that can't
/// be told it is not said.
pub(super) async fn is_unheard_of(printed: &str) -> bool {
    let Some(question) = Question::of(printed) else { return false };
    for file in question.files.iter().filter(|file| file.exists()) {
        let mut command = Command::new("ssh-keygen");
        command.arg("-F").arg(&question.name).arg("-f").arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // 1 is the answer that there is none
        if command.status().await.ok().and_then(|status| status.code()) != Some(1) {
            return false;
        }
    }
    true
}

/// What is looked for, and where.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    name: String,
    files: Vec<PathBuf>,
}

impl Question {
    fn of(printed: &str) -> Option<Question> {
        let value = |keyword: &str| {
            let lines = printed.lines().filter_map(|line| line.split_once(' '));
            let mut values = lines.filter(|(word, _)| word.eq_ignore_ascii_case(keyword));
            values.next().map(|(_, value)| value.trim()).filter(|value| *value != "none")
        };
        // it would have to be run
        if value("knownhostscommand").is_some() {
            return None;
        }
        let name = match (value("hostkeyalias"), value("port").unwrap_or("22")) {
            (Some(alias), _) => alias.to_owned(),
            (None, "22") => value("hostname")?.to_owned(),
            (None, port) => format!("[{}]:{port}", value("hostname")?),
        };
        let files = [value("userknownhostsfile"), value("globalknownhostsfile")];
        let files = files.into_iter().flatten().flat_map(str::split_whitespace).map(whole);
        Some(Question { name, files: files.collect::<Option<Vec<PathBuf>>>()? })
    }
}

/// Returns a file's path, unless `ssh` puts something else into it.
fn whole(file: &str) -> Option<PathBuf> {
    match file.strip_prefix("~/") {
        _ if file.contains(['%', '$', '"']) => None,
        Some(rest) => Some(PathBuf::from(variable("HOME")?).join(rest)),
        None => Some(PathBuf::from(file)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_FILES: &str = "userknownhostsfile /no/such/file\nglobalknownhostsfile none\n";

    #[test]
    fn the_name_is_the_one_that_ssh_looks_for() {
        let name = |more: &str| Question::of(&format!("{NO_FILES}{more}")).map(|it| it.name);
        assert_eq!(name("hostname b1\nport 22\n").as_deref(), Some("b1"));
        assert_eq!(name("hostname b1\nport 2222\n").as_deref(), Some("[b1]:2222"));
        assert_eq!(name("hostname b1\nport 2222\nhostkeyalias b\n").as_deref(), Some("b"));
        assert_eq!(name("hostname b1\nknownhostscommand /bin/keys\n"), None);
        assert_eq!(Question::of("hostname b1\nuserknownhostsfile /keys/%h\n"), None);
    }

    #[tokio::test]
    async fn a_line_for_the_host_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_hosts");
        fs_err::write(&file, "b1,10.0.0.2 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGHVlR3ALXclIQCPAwwon+dxFEY1Pvb+/aM89m1Q3um5\n").unwrap();
        let printed =
            |host: &str| format!("hostname {host}\nuserknownhostsfile {}\n", file.display());
        assert!(!is_unheard_of(&printed("b1")).await);
        assert!(is_unheard_of(&printed("b2")).await);
        assert!(is_unheard_of(&format!("{NO_FILES}hostname b1\n")).await);
    }
}
