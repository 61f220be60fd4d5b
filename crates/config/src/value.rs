//! Reading single values: spellings of truth, numbers with units.
//!
//! Follows `BaseSetting<bool>::parse` (`src/libutil/configuration.cc`),
//! `string2IntWithUnitPrefix` (`src/libutil/util.hh`) and
//! `MaxBuildJobsSetting::parse` (`src/libstore/globals.cc`) of C++ Nix.

use std::fmt;
use std::num::NonZeroU32;

use crate::keys::Kind;
use crate::store_reference::StoreReference;

/// How many builds may run at once on this machine (`max-jobs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxJobs {
    /// As many as there are processors.
    Auto,
    /// So many; none of them if zero.
    Count(u32),
}

impl MaxJobs {
    /// Returns the number of jobs on a machine with so many processors.
    pub fn resolve(self, processors: NonZeroU32) -> u32 {
        match self {
            MaxJobs::Auto => processors.get(),
            MaxJobs::Count(count) => count,
        }
    }
}

/// Whether builds are isolated from the system (`sandbox`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// Always.
    Enabled,
    /// Unless the derivation asks otherwise.
    Relaxed,
    /// Never.
    Disabled,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sandbox::Enabled => "true",
            Sandbox::Relaxed => "relaxed",
            Sandbox::Disabled => "false",
        })
    }
}

const SWITCHES: &str = "'true', 'yes', '1', 'false', 'no' or '0'";
const NUMBERS: &str = "a whole number, perhaps followed by K, M, G or T";
const JOBS: &str = "'auto' or a whole number";
const SANDBOXES: &str = "'true', 'relaxed' or 'false'";

/// What a setting would have accepted instead.
pub(crate) type Accepted = String;

/// Reads what is on or off, wherever Nix takes such a word.
pub fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "true" | "yes" | "1" => Some(true),
        "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

pub(crate) fn switch(text: &str) -> Result<bool, Accepted> {
    parse_switch(text).ok_or_else(|| SWITCHES.to_owned())
}

/// Reads a whole number; `K`, `M`, `G` and `T`, large or small, multiply it by
/// powers of 1024. A product that does not fit is an error, where Nix wraps.
pub(crate) fn number64(text: &str) -> Result<u64, Accepted> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let shift = match unit.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => return Err(NUMBERS.to_owned()),
            };
            (text.get(..at).unwrap_or_default(), shift)
        }
        _ => (text, 0),
    };
    let number = digits.parse::<u64>().map_err(|_| NUMBERS.to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{NUMBERS}, of at most {}", u64::MAX))
}

pub(crate) fn number32(text: &str) -> Result<u32, Accepted> {
    let number = number64(text)?;
    u32::try_from(number).map_err(|_| format!("{NUMBERS}, of at most {}", u32::MAX))
}

pub(crate) fn jobs(text: &str) -> Result<MaxJobs, Accepted> {
    match text {
        "auto" => Ok(MaxJobs::Auto),
        _ => text.parse().map(MaxJobs::Count).map_err(|_| JOBS.to_owned()),
    }
}

pub(crate) fn sandbox(text: &str) -> Result<Sandbox, Accepted> {
    match text {
        "true" => Ok(Sandbox::Enabled),
        "relaxed" => Ok(Sandbox::Relaxed),
        "false" => Ok(Sandbox::Disabled),
        _ => Err(SANDBOXES.to_owned()),
    }
}

pub(crate) fn store(text: &str) -> Result<StoreReference, Accepted> {
    text.parse().map_err(|error| format!("a store ({error})"))
}

/// Checks a value against the kind of its setting.
pub(crate) fn check(kind: Kind, text: &str) -> Result<(), Accepted> {
    match kind {
        Kind::Switch => switch(text).map(drop),
        Kind::Number32 => number32(text).map(drop),
        Kind::Number64 => number64(text).map(drop),
        Kind::Jobs => jobs(text).map(drop),
        Kind::Sandbox => sandbox(text).map(drop),
        Kind::Store => store(text).map(drop),
        // a word that is no store is left out, and the others count
        Kind::Stores | Kind::Text | Kind::Words | Kind::Other | Kind::OtherWords => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", Some(0))]
    #[case("+7", Some(7))]
    #[case("007", Some(7))]
    #[case("1k", Some(1024))]
    #[case("1K", Some(1024))]
    #[case("2M", Some(2 << 20))]
    #[case("3G", Some(3 << 30))]
    #[case("4T", Some(4 << 40))]
    #[case("18446744073709551615", Some(u64::MAX))]
    #[case("18446744073709551616", None)]
    #[case("16777216T", None)]
    #[case("", None)]
    #[case("K", None)]
    #[case("1P", None)]
    #[case("1KB", None)]
    #[case("-1", None)]
    #[case("1.5", None)]
    #[case("0x10", None)]
    #[case("1 K", None)]
    #[case("5ß", None)]
    fn numbers(#[case] text: &str, #[case] expected: Option<u64>) {
        assert_eq!(number64(text).ok(), expected);
    }

    #[rstest]
    #[case("3G", true)]
    #[case("4G", false)]
    #[case("4294967295", true)]
    fn narrow_numbers(#[case] text: &str, #[case] fits: bool) {
        assert_eq!(number32(text).is_ok(), fits);
    }

    #[rstest]
    #[case("auto", Some(MaxJobs::Auto))]
    #[case("0", Some(MaxJobs::Count(0)))]
    #[case("16", Some(MaxJobs::Count(16)))]
    #[case("1K", None)]
    #[case("Auto", None)]
    #[case("-1", None)]
    fn max_jobs(#[case] text: &str, #[case] expected: Option<MaxJobs>) {
        assert_eq!(jobs(text).ok(), expected);
    }

    #[rstest]
    #[case("yes", Some(true))]
    #[case("1", Some(true))]
    #[case("no", Some(false))]
    #[case("True", None)]
    #[case("on", None)]
    #[case("", None)]
    fn switches(#[case] text: &str, #[case] expected: Option<bool>) {
        assert_eq!(switch(text).ok(), expected);
    }
}
