//! Cutting text the way Nix does: at ASCII space, tab, newline and return only.
//!
//! Follows `tokenizeString` and `trim` of C++ Nix (`src/libutil/strings.hh`).

/// Whether Nix takes `c` for white space in configuration.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Returns the words of `text`.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_blank).filter(|word| !word.is_empty())
}

/// Returns the non-empty parts of `text` between commas.
pub(crate) fn comma_separated(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|part| !part.is_empty())
}

/// Returns `text` without white space at either end.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// Returns `line` up to the first `#`, wherever that is.
pub(crate) fn without_comment(line: &str) -> &str {
    line.split_once('#').map_or(line, |(before, _)| before)
}
