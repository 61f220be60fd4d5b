//! Drover's way onto a machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::answer::{Answer, marked};
use super::elf::Kind;
use crate::doctor::Way;
use crate::terminal::Terminal;
use crate::usual_shell::stands_alone;

/// How long the program may be on its way.
const UPLOAD_LIMIT: Duration = Duration::from_secs(600);

/// Puts the program in place; see there.
const INSTALL: &str = include_str!("install.sh");

/// A program to be put on a machine.
#[derive(Debug)]
pub(super) struct Upload {
    file: PathBuf,
    kind: Kind,
}

impl Upload {
    /// Returns the program that the user has given, or this very one.
    ///
    /// # Errors
    ///
    /// It is no program, or none that other machines can run.
    pub(super) fn of(given: Option<&Path>) -> anyhow::Result<Upload> {
        let file = match given {
            Some(file) if !file.is_file() => bail!("'{}' is no file", file.display()),
            Some(file) => file.to_owned(),
            None => own()?,
        };
        match Kind::of(&file)? {
            Kind::Other => bail!(
                "'{}' is no program of Linux (ELF): give the file of a drover, as `make dist` makes it",
                file.display()
            ),
            kind => Ok(Upload { file, kind }),
        }
    }

    /// Puts the program there, and returns the folder of the names that it answers to.
    ///
    /// # Errors
    ///
    /// It can't run there, or can't be put there.
    pub(super) async fn install(
        &self,
        way: &Way,
        limit: Duration,
        terminal: &Terminal,
    ) -> anyhow::Result<String> {
        let Way::Ssh(login) = way else { bail!("this machine needs no bootstrap") };
        self.check_machine(way, limit).await?;
        let size = fs_err::metadata(&self.file)?.len();
        terminal.info(&format!("sending {} ({} KiB)", self.file.display(), size / 1024));
        let input = tokio::fs::File::open(&self.file).await?;
        let line = ["sh", "-c", &marked(INSTALL), "sh", &size.to_string()];
        let answer = Answer::of(&login.feed(&line, input, UPLOAD_LIMIT).await?);
        let printed = answer.printed.as_deref().unwrap_or_default();
        match printed.lines().find_map(|line| line.strip_prefix("installed ")) {
            Some(folder) if !folder.contains(char::is_whitespace) => Ok(folder.to_owned()),
            Some(folder) => {
                bail!("'{folder}' has a blank, so it can't be named in a machines file")
            }
            None => {
                let mut steps = printed.lines().filter_map(|line| line.strip_prefix("step "));
                Err(trouble(steps.next_back().unwrap_or_default(), &answer))
            }
        }
    }

    /// Checks that the program is for such a machine.
    async fn check_machine(&self, way: &Way, limit: Duration) -> anyhow::Result<()> {
        let answer = Answer::of(&way.run(&["sh", "-c", &marked("uname -sm")], limit).await);
        let Some(printed) = &answer.printed else { return Err(trouble("", &answer)) };
        let (kernel, machine) = printed.trim().split_once(' ').unwrap_or_default();
        let runs = |names: &[&str]| names.contains(&machine);
        match (kernel, self.kind.machines()) {
            ("Linux", None) => Ok(()),
            ("Linux", Some(names)) if runs(names) => Ok(()),
            ("Linux", Some(names)) => bail!(
                "'{}' is for {}, and the machine is {machine}: give a program for it by --program",
                self.file.display(),
                names.first().unwrap_or(&"another processor")
            ),
            _ => bail!("drover runs on Linux, and the machine says '{}'", printed.trim()),
        }
    }
}

/// Returns the file of this very program.
fn own() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find drover's own file")?;
    if !stands_alone(&own) {
        bail!(
            "'{}' needs the libraries of this machine: give a static program by --program, as `make dist` \
             makes them",
            own.display()
        );
    }
    Ok(own)
}

/// Says what is wrong where the last step that was begun is this.
fn trouble(step: &str, answer: &Answer) -> anyhow::Error {
    let said = answer.in_words();
    match step {
        "home" => anyhow::anyhow!(
            "~/.local/bin and ~/.local/lib can't be made there{said}; the home folder must be the user's own, \
             and writable"
        ),
        "write" => anyhow::anyhow!(
            "the program can't be written into ~/.local/bin there{said}; look for room with df -h ~"
        ),
        "whole" => anyhow::anyhow!(
            "only a part of the program has arrived there{said}; look for room with df -h ~, and try again"
        ),
        "run" => anyhow::anyhow!(
            "the program does not run there{said}; either the home folder may hold no programs (noexec; \
             findmnt -T ~ says so), or the program needs something that isn't there"
        ),
        "known" => anyhow::anyhow!("the program that was given is not drover{said}"),
        "place" => anyhow::anyhow!(
            "~/.local/bin/drover can't be replaced there{said}; move away what has that name"
        ),
        "names" => anyhow::anyhow!(
            "the names of Nix's programs can't be put into ~/.local/lib/drover/bin there{said}"
        ),
        _ => anyhow::anyhow!(
            "no command can be run there{said}; the user needs a shell (not /bin/false or nologin), and a key \
             without a forced command"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::process::Stdio;

    use rustix::process::{Signal, kill_process};

    use super::*;

    /// Runs the script with a part of what it expects, does something to it, and returns what is left.
    fn cut_off(meanwhile: impl Fn(rustix::process::Pid)) -> (String, Vec<String>) {
        let home = tempfile::tempdir().unwrap();
        let mut shell = std::process::Command::new("sh")
            .args(["-c", INSTALL, "sh", "1000"])
            .env("HOME", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = shell.stdin.take().unwrap();
        stdin.write_all(b"a part").unwrap();
        let mut stdout = BufReader::new(shell.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains("step write") {
            assert_ne!(stdout.read_line(&mut said).unwrap(), 0, "{said}");
        }
        meanwhile(rustix::process::Pid::from_child(&shell));
        drop(stdin);
        stdout.read_to_string(&mut said).unwrap();
        assert!(!shell.wait().unwrap().success());
        let left = fs_err::read_dir(home.path().join(".local/bin")).unwrap();
        (said, left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
    }

    #[test]
    fn what_is_cut_off_leaves_nothing() {
        let (said, left) = cut_off(|_| ());
        assert!(said.ends_with("step whole\n") && left.is_empty(), "{said}: {left:?}");
        for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
            let (said, left) = cut_off(|shell| kill_process(shell, signal).unwrap());
            assert!(left.is_empty(), "{signal:?}: {said}: {left:?}");
        }
    }

    #[test]
    fn only_programs_are_sent() {
        let refused = Upload::of(Some(Path::new("/etc/passwd"))).unwrap_err();
        assert!(refused.to_string().contains("is no program of Linux"), "{refused}");
        assert!(Upload::of(Some(Path::new("/no/such/file"))).is_err());
    }
}
