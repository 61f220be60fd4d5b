//! What stores say in words alone, as there is no number for it: those of Nix 2.3 to 2.34.

/// A store doesn't take it from us, whatever it is.
const REFUSED: &[&str] =
    &["you are not privileged to", "lacks a signature by a trusted key", "lacks a valid signature"];

/// A machine is out of space. Nix looks for that itself when a build fails, and notes it below the failure.
const DISK_FULL: &[&str] = &[
    "no space left on device",
    "disk quota exceeded",
    "lack of free disk space",
    "database or disk is full",
];

/// Whether a store says that it takes something from nobody who isn't trusted.
pub fn says_refused(message: &str) -> bool {
    has(message, REFUSED)
}

/// Whether a store says that there is no room.
pub fn says_disk_full(message: &str) -> bool {
    has(message, DISK_FULL)
}

fn has(message: &str, words: &[&str]) -> bool {
    let message = message.to_lowercase();
    words.iter().any(|word| message.contains(word))
}
