//! What a machine says of itself.

use std::time::Duration;

use drover_doctor::MachineSettings;
use drover_store_remote::Program;

use super::way::Way;

/// Prints the settings of the Nix that is named first, in the words of either age; where there is none,
/// those of drover, if that is what answers to the name that comes second.
const SETTINGS: &str = r#"for words in "config show" show-config; do
"$1" --extra-experimental-features nix-command $words --json 2>/dev/null && exit
done
own=$(readlink -f "$(command -v "$2")")
case $own in */drover) exec "$own" show-config --json ;; esac"#;

/// Prints where the program that is named can be found, the most usual place first.
const PLACES: &str = r#"for folder in /nix/var/nix/profiles/default/bin /run/current-system/sw/bin \
  "$HOME/.nix-profile/bin" "$HOME/.local/state/nix/profile/bin" /usr/local/bin /usr/bin \
  /opt/nix/bin "$HOME/.local/bin"; do
if [ -x "$folder/$1" ]; then echo "$folder/$1"; fi
done"#;

/// Returns the words that a program is started with, and the program that it is by default.
pub(crate) fn known(program: &Program) -> (&[String], &'static str) {
    match program {
        Program::Worker { command, .. } => (command, "nix-daemon"),
        Program::Serve { command, .. } => (command, "nix-store"),
    }
}

/// Asks for the settings of the Nix that a program is part of.
pub(crate) async fn machine_settings(
    way: &Way,
    command: &[String],
    limit: Duration,
) -> Option<MachineSettings> {
    let program = command.first().map(String::as_str).unwrap_or_default();
    let nix = match program.rsplit_once('/') {
        Some((folder, _)) => format!("{folder}/nix"),
        None => "nix".to_owned(),
    };
    let ran = way.run(&["sh", "-c", SETTINGS, "sh", &nix, program], limit).await;
    MachineSettings::parse(&String::from_utf8_lossy(&ran.stdout))
}

/// Looks for a program in the usual places.
pub(crate) async fn places(way: &Way, program: &str, limit: Duration) -> Vec<String> {
    let ran = way.run(&["sh", "-c", PLACES, "sh", program], limit).await;
    let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
    let is_place = |line: &&str| line.starts_with('/') && line.ends_with(program);
    printed.lines().filter(is_place).map(str::to_owned).collect()
}
