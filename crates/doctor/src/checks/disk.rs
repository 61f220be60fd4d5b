//! There is room in the machine's store.

use std::path::Path;

use crate::step::Verdict;

/// Bytes below which hardly anything can be built.
const LITTLE: u64 = 1 << 30;
/// Bytes below which Nix itself gives up.
const NOTHING: u64 = 100 << 20;

/// A folder of a drover that was put there without root, among those that [`SCRIPT`] is given.
pub const OWN: &str = "~";

/// Prints which of the folders that are given is the first that is there, and what `df` says of it.
pub const SCRIPT: &str = r#"for folder; do
case $folder in "~") folder=${XDG_DATA_HOME:-$HOME/.local/share}/nix/root/nix/store ;; esac
if [ -d "$folder" ]; then echo "==store $folder"; exec df -Pk "$folder"; fi
done"#;

/// Returns the folders in which a machine's store may be, the likeliest first: by where it's known to be, or else by
/// where stores are in this directory.
pub fn folders<'a>(real: Option<&'a Path>, store_dir: &'a str) -> Vec<&'a str> {
    match real {
        // it's made by the first build
        Some(real) => real.ancestors().filter_map(Path::to_str).collect(),
        None => vec![store_dir, OWN],
    }
}

/// A store's folder, and the bytes that are free there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Free {
    /// The folder.
    pub folder: String,
    /// The bytes.
    pub bytes: u64,
}

/// Returns what [`SCRIPT`] has printed, and others before it.
pub fn free(printed: &str) -> Option<Free> {
    let folder = printed.lines().rev().find_map(|line| line.strip_prefix("==store "))?;
    let line = printed.lines().rev().find(|line| line.contains('%'))?;
    let kibibytes: u64 = line.split_ascii_whitespace().nth(3)?.parse().ok()?;
    Some(Free { folder: folder.to_owned(), bytes: kibibytes.checked_mul(1024)? })
}

/// Judges the bytes that are free in a store.
pub fn judge(free: Option<Free>, store_dir: &str) -> Verdict {
    let Some(Free { folder, bytes }) = free else {
        return Verdict::unknown(format!("free space in {store_dir} could not be asked for (df)"));
    };
    let shown = format!("{:.1} GiB free in {folder}", gibibytes(bytes));
    match bytes {
        0..NOTHING => Verdict::wrong(shown, "there: nix-collect-garbage -d, or a larger disk"),
        NOTHING..LITTLE => Verdict::odd(
            shown,
            "there: nix-collect-garbage -d; 'min-free' in its nix.conf does so by itself",
        ),
        _ => Verdict::good(shown),
    }
}

/// Returns bytes as GiB, rounded down to tenths.
fn gibibytes(bytes: u64) -> f64 {
    let tenths = u32::try_from(bytes / ((1 << 30) / 10)).unwrap_or(u32::MAX);
    f64::from(tenths) / 10.0
}
