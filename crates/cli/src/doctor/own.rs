//! What a machine says of itself.

use std::path::PathBuf;
use std::time::Duration;

use drover_doctor::MachineSettings;
use drover_store_local::Place;
use drover_store_remote::Program;

use super::way::Way;
use crate::own_store;

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

/// Returns where the files of a machine's store are, where its line names one in files of its own.
pub(crate) fn real_store(program: &Program) -> Option<PathBuf> {
    let (Program::Worker { store, .. } | Program::Serve { store, .. }) = program;
    let store = store.as_deref()?;
    // where others are is decided by what is there
    let is_told = store.starts_with('/') || store.contains("root=") || store.contains("real=");
    match own_store::place(&store.parse().ok().filter(|_| is_told)?) {
        Ok(Some(Place::Local(layout) | Place::Own(layout))) => Some(layout.real),
        _ => None,
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use drover_doctor::checks::disk;

    use super::*;

    fn program(store: Option<&str>) -> Program {
        let command = vec!["nix-daemon".to_owned()];
        Program::Worker { command, store: store.map(str::to_owned) }
    }

    #[test]
    fn the_store_of_a_line_is_where_the_line_says() {
        let real = |store| real_store(&program(store));
        let elsewhere = "/home/alice/nix/nix/store";
        assert_eq!(real(Some("local?root=/home/alice/nix")).unwrap(), Path::new(elsewhere));
        assert_eq!(real(Some("/home/alice/nix")).unwrap(), Path::new(elsewhere));
        assert_eq!(real(Some("daemon")), None);
        assert_eq!(real(None), None);
    }

    /// A store that isn't made yet will be where its folder is.
    #[tokio::test]
    async fn the_disk_is_that_of_the_store() {
        let home = tempfile::tempdir().unwrap();
        let free = async |real: Option<&Path>| {
            let folders = disk::folders(real, "/nowhere/nix/store");
            let script = [["sh", "-c", disk::SCRIPT, "sh"].as_slice(), &folders].concat();
            let environment = format!("XDG_DATA_HOME={}", home.path().display());
            let line = [&["env", &environment], script.as_slice()].concat();
            let ran = Way::Here.run(&line, Duration::from_secs(60)).await;
            let free = disk::free(&String::from_utf8_lossy(&ran.stdout));
            disk::judge(free, "/nowhere/nix/store").text
        };
        let here = format!("free in {}", home.path().display());
        let told = free(Some(&home.path().join("root/nix/store"))).await;
        assert!(told.ends_with(&here), "{told}");
        assert!(free(None).await.ends_with("could not be asked for (df)"));
        let own = home.path().join("nix/root/nix/store");
        fs_err::create_dir_all(&own).unwrap();
        let told = free(None).await;
        assert!(told.ends_with(&format!("free in {}", own.display())), "{told}");
    }
}
