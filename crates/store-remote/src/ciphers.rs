//! A faster cipher for SSH, where the user has nothing to say about ciphers.
//!
//! AES in Galois mode is twice as fast as OpenSSH's default where the processor has instructions for
//! it. What the user chose, in `NIX_SSHOPTS` or in a configuration file, stays: an option on the
//! command line would go before the files, so `ssh -G` is asked what they say.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// How long `ssh -G` may take; it may run commands of the user's (`Match exec`).
const LIMIT: Duration = Duration::from_secs(2);

/// Returns the option for `ssh` that puts the fast cipher first, if that's ours to decide.
pub(crate) async fn fast_ciphers(arguments: &[String], destination: &str) -> Option<&'static str> {
    if !processor_has_aes() || are_chosen(arguments) {
        return None;
    }
    let none = ["-F", "/dev/null"];
    let configured = ciphers(arguments, &[], destination);
    let by_default = ciphers(arguments, &none, destination);
    let (configured, by_default) = tokio::join!(configured, by_default);
    // where one can't be told, nothing is decided
    (configured? == by_default?).then_some("-oCiphers=^aes128-gcm@openssh.com")
}

/// Whether the command line says something of ciphers.
fn are_chosen(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| {
        argument.to_ascii_lowercase().contains("ciphers") || argument.starts_with("-c")
    })
}

/// Returns the ciphers that `ssh` would offer.
async fn ciphers(arguments: &[String], more: &[&str], destination: &str) -> Option<String> {
    let mut command = Command::new("ssh");
    command.arg("-G").args(arguments).args(more).arg(destination);
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.ok()?.ok()?;
    ciphers_line(&output.stdout)
}

fn ciphers_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    text.lines().find_map(|line| line.strip_prefix("ciphers ")).map(str::to_owned)
}

#[cfg(target_arch = "x86_64")]
fn processor_has_aes() -> bool {
    std::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn processor_has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn processor_has_aes() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn the_command_line_is_heeded() {
        assert!(are_chosen(&words(&["-oCiphers=aes256-ctr"])));
        assert!(are_chosen(&words(&["-o", "ciphers aes256-ctr"])));
        assert!(are_chosen(&words(&["-caes256-ctr"])));
        assert!(!are_chosen(&words(&["-p22", "-oControlMaster=no"])));
    }

    #[test]
    fn the_line_is_found() {
        assert_eq!(ciphers_line(b"host x\nciphers a,b\nmacs c\n").as_deref(), Some("a,b"));
        assert_eq!(ciphers_line(b""), None);
    }

    #[tokio::test]
    async fn a_configuration_file_is_heeded() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let silent = file("silent", "Host *\n  Compression no\n");
        let chosen = file("chosen", "Host *\n  Ciphers aes256-ctr\n");
        let broken = file("broken", "Host *\n  Nonsense\n");
        let asked = async |config: &str| fast_ciphers(&words(&["-F", config]), "host").await;
        assert_eq!(asked(&silent).await.is_some(), processor_has_aes());
        assert_eq!(asked(&chosen).await, None);
        assert_eq!(asked(&broken).await, None, "an ssh -G that fails decides nothing");
    }
}
