//! What is asked for, by its URL.
//!
//! The grammar is closed: whatever isn't one of these names isn't there. No part of a URL ever becomes
//! a path in a file system.

use drover_core::{DrvOutput, NarHash, NarUrl, StorePath, decode_base32};

use crate::settings::NarForm;

/// Bytes that a path with its query may have.
const MAX_URL: usize = 2048;

/// The hash part of a store path: 32 digits of Nix's base 32.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HashPart(String);

impl HashPart {
    pub(crate) fn parse(text: &str) -> Option<HashPart> {
        decode_base32::<20>(text).ok().map(|_| HashPart(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A NAR, by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NarName {
    /// As it was asked for, relative to the cache.
    pub(crate) url: NarUrl,
    /// What it means, if it is a name that is given out here.
    pub(crate) known: Option<KnownNar>,
}

/// A NAR of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownNar {
    pub(crate) hash_part: HashPart,
    pub(crate) nar_hash: NarHash,
    pub(crate) form: NarForm,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// `/`
    Front,
    /// `/nix-cache-info`
    CacheInfo,
    /// `/HASH.narinfo`
    NarInfo(HashPart),
    /// `/HASH.ls`
    Listing(HashPart),
    /// `/nar/…`
    Nar(NarName),
    /// `/log/HASH-NAME.drv`
    Log(StorePath),
    /// `/realisations/HASH!OUTPUT.doi`
    Realisation(DrvOutput),
    /// `/health`
    Health,
    /// `/metrics`
    Metrics,
}

/// Why nothing is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAsked {
    /// A name that no cache has, such as one with dots that climb.
    Malformed,
    /// Nothing has such a name here.
    Unknown,
}

impl Asked {
    /// Reads the path of a URL and what stands behind its `?`.
    pub(crate) fn parse(path: &str, query: Option<&str>) -> Result<Asked, NotAsked> {
        let longest = path.len().saturating_add(query.map_or(0, str::len));
        if longest > MAX_URL {
            return Err(NotAsked::Malformed);
        }
        let path = decode(path).ok_or(NotAsked::Malformed)?;
        let name = path.strip_prefix('/').ok_or(NotAsked::Malformed)?;
        match name {
            "" => return Ok(Asked::Front),
            "nix-cache-info" => return Ok(Asked::CacheInfo),
            "health" => return Ok(Asked::Health),
            "metrics" => return Ok(Asked::Metrics),
            _ => {}
        }
        let climbs = |part: &str| matches!(part, "" | "." | "..");
        // derivations may have a `?` in their names, for which a query could be taken elsewhere
        let is_log = name.starts_with("log/");
        if name.split('/').any(climbs) || (name.contains('?') && !is_log) {
            return Err(NotAsked::Malformed);
        }
        let found = match name.split_once('/') {
            None => by_hash(name),
            Some(("nar", _)) => nar(name, query).map(Asked::Nar),
            Some(("log", rest)) => {
                let path = StorePath::from_base_name(rest).ok();
                path.filter(StorePath::is_derivation).map(Asked::Log)
            }
            Some(("realisations", rest)) => {
                let id = rest.strip_suffix(".doi").and_then(|id| id.parse().ok());
                id.map(Asked::Realisation)
            }
            Some(_) => None,
        };
        found.ok_or(NotAsked::Unknown)
    }
}

fn by_hash(name: &str) -> Option<Asked> {
    let (hash_part, ending) = name.split_once('.')?;
    let hash_part = HashPart::parse(hash_part)?;
    match ending {
        "narinfo" => Some(Asked::NarInfo(hash_part)),
        "ls" => Some(Asked::Listing(hash_part)),
        _ => None,
    }
}

/// Reads `nar/HASH-NARHASH.nar`, as `nix-serve` has it, and `nar/NARHASH.nar?hash=HASH`, as harmonia
/// has it; each with an ending for its compression. Other names are those of uploads.
fn nar(name: &str, query: Option<&str>) -> Option<NarName> {
    let whole = match query {
        Some(query) => format!("{name}?{query}"),
        None => name.to_owned(),
    };
    let url = NarUrl::parse(&whole).ok()?;
    let file = name.strip_prefix("nar/")?;
    let known = file.split_once(".nar").and_then(|(hashes, ending)| {
        let form = NarForm::of_ending(ending)?;
        let (hash_part, nar_hash) = match query {
            Some(query) => (query.strip_prefix("hash=")?, hashes),
            None => hashes.split_once('-')?,
        };
        let nar_hash = NarHash(decode_base32::<32>(nar_hash).ok()?);
        Some(KnownNar { hash_part: HashPart::parse(hash_part)?, nar_hash, form })
    });
    Some(NarName { url, known })
}

/// Decodes what is escaped. Nothing that would have been read otherwise without its escape may be.
fn decode(path: &str) -> Option<String> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let byte = u8::from_str_radix(after.get(..2)?, 16).ok()?;
        let hidden = !byte.is_ascii_graphic() || matches!(byte, b'/' | b'.' | b'%' | b'\\');
        if hidden || after.starts_with('+') {
            return None;
        }
        decoded.push(char::from(byte));
        rest = after.get(2..)?;
    }
    decoded.push_str(rest);
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const HASH: &str = "00bgd045z0d4icpbc2yyz4gx48ak44la";
    const NAR: &str = "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s";

    fn ask(url: &str) -> Result<Asked, NotAsked> {
        let (path, query) = url.split_once('?').map_or((url, None), |(p, q)| (p, Some(q)));
        Asked::parse(path, query)
    }

    #[test]
    fn reads_what_clients_ask_for() {
        let hash_part = || HashPart::parse(HASH).unwrap();
        assert_eq!(ask("/"), Ok(Asked::Front));
        assert_eq!(ask("/nix-cache-info"), Ok(Asked::CacheInfo));
        assert_eq!(ask(&format!("/{HASH}.narinfo")), Ok(Asked::NarInfo(hash_part())));
        assert_eq!(ask(&format!("/{HASH}.ls")), Ok(Asked::Listing(hash_part())));
        let nar_hash = NarHash(decode_base32(NAR).unwrap());
        for (url, form) in [
            (format!("/nar/{HASH}-{NAR}.nar"), NarForm::Plain),
            (format!("/nar/{HASH}-{NAR}.nar.zst"), NarForm::Zstd),
            (format!("/nar/{NAR}.nar?hash={HASH}"), NarForm::Plain),
        ] {
            let Ok(Asked::Nar(name)) = ask(&url) else { panic!("{url}") };
            let known = KnownNar { hash_part: hash_part(), nar_hash, form };
            assert_eq!(name.known, Some(known), "{url}");
            assert_eq!(format!("/{}", name.url.as_str()), url);
        }
        let Ok(Asked::Nar(upload)) = ask(&format!("/nar/{NAR}.nar.xz")) else { panic!() };
        assert_eq!(upload.known, None);
        let Ok(Asked::Log(path)) = ask(&format!("/log/{HASH}-a.drv")) else { panic!() };
        assert_eq!(path.name(), "a.drv");
        let Ok(Asked::Log(path)) = ask(&format!("/log/{HASH}-a%3Fb=c.drv")) else { panic!() };
        assert_eq!(path.name(), "a?b=c.drv");
        let id = format!("sha256:{}!out", "0".repeat(64));
        for url in [id.clone(), id.replace('!', "%21").replace(':', "%3a")] {
            let asked = ask(&format!("/realisations/{url}.doi"));
            assert_eq!(asked, Ok(Asked::Realisation(id.parse().unwrap())), "{url}");
        }
    }

    #[rstest]
    #[case("/nar/../../etc/shadow")]
    #[case("/nar/%2e%2e/%2e%2e/etc/shadow")]
    #[case("/nar/..%2f..%2fetc%2fshadow")]
    #[case("/nar//x.nar")]
    #[case("/nar/")]
    #[case("/%")]
    #[case("/%4")]
    #[case("/%zz")]
    #[case("/%+1")]
    #[case("/%00")]
    #[case("/nar/%5c..%5cx")]
    #[case("/nar/x.nar%3fhash=y")]
    #[case("/./nix-cache-info")]
    #[case("*")]
    #[case("nix-cache-info")]
    fn malformed(#[case] url: &str) {
        assert_eq!(ask(url), Err(NotAsked::Malformed), "{url}");
    }

    #[rstest]
    #[case("/etc/passwd")]
    #[case("/index.html")]
    #[case("/00bgd045z0d4icpbc2yyz4gx48ak44l.narinfo")]
    #[case("/00bgd045z0d4icpbc2yyz4gx48ak44le.narinfo")]
    #[case("/00bgd045z0d4icpbc2yyz4gx48ak44la.narinfo.x")]
    #[case("/00BGD045Z0D4ICPBC2YYZ4GX48AK44LA.narinfo")]
    #[case("/log/00bgd045z0d4icpbc2yyz4gx48ak44la-not-a-derivation")]
    #[case("/realisations/x.doi")]
    #[case("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x")]
    fn unknown(#[case] url: &str) {
        assert_eq!(ask(url), Err(NotAsked::Unknown), "{url}");
    }

    #[test]
    fn long_names_are_none() {
        let url = format!("/nar/{}", "x".repeat(1_000_000));
        assert_eq!(ask(&url), Err(NotAsked::Malformed));
    }

    proptest! {
        #[test]
        fn never_panics(path in ".{0,60}", query in prop::option::of(".{0,30}")) {
            drop(Asked::parse(&path, query.as_deref()));
            drop(Asked::parse(&format!("/nar/{path}"), query.as_deref()));
        }
    }
}
