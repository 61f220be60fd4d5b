//! What is asked of the sandbox of one build.

use std::collections::BTreeSet;

use crate::BuildSettings;

/// Which builds are shut in; the later, the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sandboxing {
    /// None is.
    Never,
    /// Those that don't ask to be left out.
    Relaxed,
    /// All are.
    Always,
}

/// What one who waits for a build asks of its sandbox on this machine, instead of what its builder was
/// opened with. Only trusted clients may.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SandboxWish {
    /// Whether it's shut in (`sandbox`); as the builder was opened where absent.
    pub mode: Option<Sandboxing>,
    /// What it sees beside its inputs (`sandbox-paths`); as the builder was opened where absent.
    pub paths: Option<BTreeSet<String>>,
    /// What it sees beside that (`extra-sandbox-paths`).
    pub extra_paths: BTreeSet<String>,
}

impl SandboxWish {
    /// Returns what is asked in the settings of one who waits for a build.
    pub fn of(settings: &BuildSettings) -> SandboxWish {
        let first = |names: &[&str]| names.iter().find_map(|name| settings.overrides.get(*name));
        let words = |text: &String| text.split_whitespace().map(str::to_owned).collect();
        let mode = first(&["sandbox", "build-use-sandbox", "build-use-chroot"]);
        SandboxWish {
            mode: mode.and_then(|text| match text.as_str() {
                "true" | "yes" | "1" => Some(Sandboxing::Always),
                "relaxed" => Some(Sandboxing::Relaxed),
                "false" | "no" | "0" => Some(Sandboxing::Never),
                _ => None,
            }),
            paths: first(&["sandbox-paths", "build-sandbox-paths", "build-chroot-dirs"]).map(words),
            extra_paths: first(&["extra-sandbox-paths", "build-extra-sandbox-paths"])
                .or_else(|| first(&["build-extra-chroot-dirs"]))
                .map(words)
                .unwrap_or_default(),
        }
    }

    /// Returns what does justice to two who wait for the same build: of two that say how it is shut in
    /// the stricter, and nothing but the builder's own where one of them leaves it to that; and all that
    /// one of them wants to be seen.
    #[must_use]
    pub fn and(self, other: SandboxWish) -> SandboxWish {
        let mut extra_paths = self.extra_paths;
        extra_paths.extend(other.extra_paths);
        let paths = match (self.paths, other.paths) {
            (Some(one), Some(other)) => Some(one.into_iter().chain(other).collect()),
            (one, other) => {
                extra_paths.extend(one.into_iter().chain(other).flatten());
                None
            }
        };
        let mode = self.mode.zip(other.mode).map(|(one, other)| one.max(other));
        SandboxWish { mode, paths, extra_paths }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(said: &[(&str, &str)]) -> SandboxWish {
        let said = said.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        SandboxWish::of(&BuildSettings { overrides: said.collect(), ..BuildSettings::default() })
    }

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_stricter_of_two_counts_and_the_builders_own_before_both() {
        let (always, never) = (wish(&[("sandbox", "true")]), wish(&[("build-use-sandbox", "0")]));
        assert_eq!(never.mode, Some(Sandboxing::Never));
        assert_eq!(always.clone().and(never.clone()), always);
        assert_eq!(never.and(SandboxWish::default()), SandboxWish::default());
        assert_eq!(wish(&[("sandbox", "perhaps")]), SandboxWish::default());
    }

    #[test]
    fn what_one_wants_seen_is_seen() {
        let one = wish(&[("sandbox-paths", "/a /b"), ("extra-sandbox-paths", "/c")]);
        let other = wish(&[("sandbox-paths", "/b=/x")]);
        let both = one.clone().and(other);
        assert_eq!(both.paths, Some(set(&["/a", "/b", "/b=/x"])));
        assert_eq!(both.extra_paths, set(&["/c"]));
        let usual = one.and(SandboxWish::default());
        assert_eq!((usual.paths, usual.extra_paths), (None, set(&["/a", "/b", "/c"])));
    }
}
