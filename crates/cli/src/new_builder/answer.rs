//! Scripts that are run on a machine, and what they answer: files such as `.bashrc` may print something
//! first.

use drover_doctor::checks::last_words;
use drover_store_remote::Ran;

/// What scripts begin with: the mark is put together there, as a shell that shows what it runs would print
/// it otherwise.
const BEGIN: &str =
    "printf '%s%s\\n' '==drover ' 'answers=='; printf '%s%s\\n' '==drover ' 'answers==' >&2\n";
/// What stands before the answer.
const MARK: &str = "==drover answers==\n";

/// What a script has answered.
pub(super) struct Answer {
    /// Its lines, if it was run at all.
    pub(super) printed: Option<String>,
    /// What was said beside them, on one line.
    pub(super) said: String,
}

/// Returns a script that marks where its answer begins.
pub(super) fn marked(script: &str) -> String {
    format!("{BEGIN}{script}")
}

impl Answer {
    /// Reads what a marked script has printed.
    pub(super) fn of(ran: &Ran) -> Answer {
        let printed = String::from_utf8_lossy(&ran.stdout);
        let said = String::from_utf8_lossy(&ran.stderr);
        let behind = |text: &str| text.rsplit_once(MARK).map(|(_, answer)| answer.to_owned());
        let heard = |text: String| last_words(&text);
        match behind(&printed) {
            Some(answer) => {
                let said = heard(behind(&said).unwrap_or_else(|| said.into_owned()));
                Answer { printed: Some(answer), said }
            }
            // it may be what has kept it from being run
            None => Answer { printed: None, said: heard(format!("{said}\n{printed}")) },
        }
    }

    /// Returns what was said, behind a colon, where anything was.
    pub(super) fn in_words(&self) -> String {
        match self.said.is_empty() {
            true => String::new(),
            false => format!(": {}", self.said),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_answer_is_passed_over() {
        let line = marked("echo 8; echo oops >&2");
        let noisy = format!("echo 99; echo hello >&2; set -v\n{line}");
        let output = std::process::Command::new("sh").args(["-c", &noisy]).output().unwrap();
        let answer = Answer::of(&Ran { stdout: output.stdout, stderr: output.stderr });
        assert_eq!((answer.printed.as_deref(), &*answer.said), (Some("8\n"), "oops"));
        let nothing = Ran { stdout: Vec::new(), stderr: b"no account\n".to_vec() };
        let nothing = Answer::of(&nothing);
        assert_eq!((&nothing.printed, &*nothing.in_words()), (&None, ": no account"));
    }
}
