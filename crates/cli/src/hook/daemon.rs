//! The daemon that schedules the builds of all hooks of a user on this machine.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drover_config::Override;

use super::arguments::DaemonArguments;
use super::machines::Builders;
use super::meeting::{Meeting, note_machines};
use crate::configuration::Configuration;
use crate::exit::ExitStatus;
use crate::names::{ForHooks, serve_hooks};
use crate::terminal::Terminal;

/// What it says on standard output when it listens.
pub(super) const READY: &str = "ready";

/// Runs the daemon.
pub(super) async fn run(
    arguments: &DaemonArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    if arguments.detached {
        // who has started it may end, with all of its session
        rustix::process::setsid().context("cannot leave the session that this was started in")?;
    }
    let store = arguments.store.as_deref().map(|uri| Override::flag("store", uri));
    let configuration = Configuration::load_beside_nix(store.as_slice(), terminal)?;
    let builders = Builders::given(arguments.builders.as_deref(), &configuration);
    let meeting = Meeting::of(&configuration, &builders)?;
    let hooks = ForHooks {
        files: builders.files(&configuration.host.environment),
        socket: &meeting.socket,
        questions: meeting.public_questions(),
        note: Arc::new({
            let note = meeting.note();
            move |configuration: &Configuration| note_machines(&note, configuration)
        }),
        idle: arguments.idle.map(Duration::from_secs),
        ready: || match arguments.detached {
            true => say_ready(),
            false => terminal.info(&format!("drover listens at '{}'", meeting.socket.display())),
        },
    };
    let served = serve_hooks(overrides(&builders, store), hooks, terminal).await;
    // nobody is to look for it any more, unless it's another daemon's by now
    if std::os::unix::net::UnixStream::connect(&meeting.socket).is_err() {
        drop(fs_err::remove_file(meeting.note()));
    }
    served?;
    Ok(ExitStatus::SUCCESS)
}

/// Returns the settings that this daemon has otherwise: its machines, the store, and nothing of what Nix
/// does itself with what a hook has built for it.
fn overrides(builders: &Builders, store: Option<Override>) -> Vec<Override> {
    let always = [
        Override::flag("builders", builders.text()),
        Override::flag("max-jobs", "0"),
        Override::flag("secret-key-files", ""),
        Override::flag("post-build-hook", ""),
    ];
    always.into_iter().chain(store).collect()
}

/// Says that it listens; who has started it may be gone, and others come.
fn say_ready() {
    let mut stdout = std::io::stdout().lock();
    drop(writeln!(stdout, "{READY}").and_then(|()| stdout.flush()));
}
