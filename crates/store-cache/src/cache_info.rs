//! `nix-cache-info`: what a cache tells of itself.
//!
//! Follows `src/libstore/binary-cache-store.cc` of Nix.

use drover_core::StoreDir;

use crate::settings::MassQuery;

/// The file's name.
pub(crate) const NAME: &str = "nix-cache-info";

/// Bytes that it may have at the most.
pub(crate) const MAX_SIZE: u64 = 64 * 1024;

/// What a cache tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CacheInfo {
    /// The directory of its paths.
    pub(crate) store_dir: Option<String>,
    /// Whether it likes many questions.
    pub(crate) mass_query: MassQuery,
    /// Lower is asked first; Nix says 50 where it isn't told.
    pub(crate) priority: i64,
}

impl CacheInfo {
    /// What is so where nothing is told.
    pub(crate) const NEW: CacheInfo =
        CacheInfo { store_dir: None, mass_query: MassQuery::Unwanted, priority: 50 };

    /// Reads it. Lines that are not known are passed over, as in Nix.
    ///
    /// # Errors
    ///
    /// The rule that it breaks.
    pub(crate) fn parse(text: &[u8]) -> Result<CacheInfo, &'static str> {
        let text = std::str::from_utf8(text).map_err(|_| "it must be UTF-8")?;
        let mut info = CacheInfo::NEW;
        let mut known = 0;
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match name {
                "StoreDir" => info.store_dir = Some(value.to_owned()),
                "WantMassQuery" if value == "1" => info.mass_query = MassQuery::Wanted,
                "WantMassQuery" => {}
                "Priority" => {
                    info.priority = value.parse().map_err(|_| "Priority must be a whole number")?;
                }
                _ => continue,
            }
            known += 1;
        }
        if known == 0 {
            Err("it has neither StoreDir nor anything else that is known")
        } else {
            Ok(info)
        }
    }

    /// Returns what a new cache says of itself, as Nix writes it.
    pub(crate) fn of_new(store_dir: &StoreDir) -> String {
        format!("StoreDir: {store_dir}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_caches_say() {
        let text = b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\nOther: x\n";
        let info = CacheInfo::parse(text).expect("it is good");
        assert_eq!(info.store_dir.as_deref(), Some("/nix/store"));
        assert_eq!((info.mass_query, info.priority), (MassQuery::Wanted, 40));
        let new = CacheInfo::of_new(&StoreDir::default());
        let golden = include_str!("../../core/tests/golden/narinfo/nix-cache-info");
        assert_eq!(new, golden, "other than stock Nix");
        let info = CacheInfo::parse(new.as_bytes()).expect("it is good");
        assert_eq!((info.mass_query, info.priority), (MassQuery::Unwanted, 50));
    }

    #[test]
    fn refuses_what_is_none() {
        for text in [&b""[..], b"<html>\n<a href=\"x:y\">", b"\xff\xfe: x", b"Priority: high\n"] {
            assert!(CacheInfo::parse(text).is_err(), "{text:?}");
        }
    }
}
