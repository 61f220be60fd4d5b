//! Files of a store that are on this machine, read without asking its server.

use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use drover_core::StorePath;
use drover_store::MAX_FILE;

/// Reads paths that are flat files. Nothing where that doesn't do: in a store elsewhere under the same
/// name, in one we may not read, or where one is too large. The protocol tells then what is wrong.
pub(crate) async fn read(real_dir: &Path, paths: &[StorePath]) -> Option<Vec<Bytes>> {
    let files: Vec<_> = paths.iter().map(|path| real_dir.join(path.base_name())).collect();
    let read = move || files.iter().map(|file| read_file(file)).collect();
    let read: Result<std::io::Result<_>, _> = tokio::task::spawn_blocking(read).await;
    read.ok()?.ok()
}

fn read_file(file: &Path) -> std::io::Result<Bytes> {
    let opened = fs_err::File::open(file)?;
    let mut bytes = Vec::new();
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if MAX_FILE < bytes.len() as u64 {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes.into())
}
