//! Settings of one build, as those who wait for it wish them.

use std::borrow::Cow;

use drover_store::{BuildFailure, FailureCause, SandboxWish, Sandboxing};

use crate::settings::{LocalSettings, SandboxMode, SandboxPath};

/// Returns the settings of a build.
///
/// # Errors
///
/// A sandbox path that is none.
pub(crate) fn wished<'a>(
    usual: &'a LocalSettings,
    wish: &SandboxWish,
) -> Result<Cow<'a, LocalSettings>, BuildFailure> {
    if *wish == SandboxWish::default() {
        return Ok(Cow::Borrowed(usual));
    }
    let mut settings = usual.clone();
    settings.sandbox = match wish.mode {
        None => settings.sandbox,
        Some(Sandboxing::Always) => SandboxMode::Always,
        Some(Sandboxing::Relaxed) => SandboxMode::Relaxed,
        Some(Sandboxing::Never) => SandboxMode::Never,
    };
    if let Some(paths) = &wish.paths {
        settings.paths = read(paths)?;
    }
    for path in read(&wish.extra_paths)? {
        if !settings.paths.contains(&path) {
            settings.paths.push(path);
        }
    }
    Ok(Cow::Owned(settings))
}

fn read<'a>(texts: impl IntoIterator<Item = &'a String>) -> Result<Vec<SandboxPath>, BuildFailure> {
    let read = |text: &String| {
        text.parse().map_err(|error| BuildFailure::new(FailureCause::Rejected, format!("{error}")))
    };
    texts.into_iter().map(read).collect()
}
