//! Files on their way into a store, into a NAR, and keys in files.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use drover_core::{
    ContentAddress, Hash, HashAlgorithm, IngestionMethod, References, SecretKey, StoreName,
};
use drover_store::{Content, WhenValid};

use super::run::Session;
use crate::console::Console;
use crate::error::CompatError;
use crate::installable::absolute;
use crate::pack::{Form, pack};

/// Adds files and prints their paths.
pub(super) async fn add(
    session: &mut Session<'_>,
    method: IngestionMethod,
    algorithm: HashAlgorithm,
    files: Vec<PathBuf>,
) -> Result<(), CompatError> {
    let form = match method {
        IngestionMethod::Flat | IngestionMethod::Text => Form::Flat,
        IngestionMethod::Nar | IngestionMethod::Git => Form::Nar,
    };
    for file in files {
        let path = absolute(&file, &session.host.working_dir());
        let shown = path.display();
        // by the text: `.` is no name
        let typed = file.as_os_str().to_str().unwrap_or_default().trim_end_matches('/');
        let name = typed.rsplit('/').next().unwrap_or_default();
        let name: StoreName = name.parse().map_err(|error| {
            CompatError::failed(format!("cannot add '{shown}': its name is not valid: {error}"))
        })?;
        // a missing file is an error of its own, not one of the store
        let found = std::fs::symlink_metadata(&path).map_err(|source| CompatError::File {
            action: "getting status of",
            path: path.clone(),
            source,
        })?;
        if form == Form::Flat && found.is_symlink() {
            return Err(CompatError::failed(format!("path '{shown}' is a symlink")));
        }
        let content = Content { name, method, algorithm, references: Default::default() };
        let bytes = Box::new(pack(path, form));
        let info = session.store.add_content(content, bytes, WhenValid::Keep).await?;
        session.print_path(&info.path).await?;
    }
    Ok(())
}

/// Prints the path that contents with a hash would have.
pub(super) async fn print_fixed_path(
    session: &mut Session<'_>,
    method: IngestionMethod,
    hash: Hash,
    name: &StoreName,
) -> Result<(), CompatError> {
    let address = ContentAddress { method, hash };
    let path = session
        .store
        .store_dir()
        .content_addressed_path(&address, &References::default(), name)
        .map_err(|error| CompatError::failed(error.to_string()))?;
    session.print_path(&path).await
}

/// Prints the NAR of a file or a folder.
pub(super) async fn dump(path: PathBuf, console: &mut Console) -> Result<(), CompatError> {
    let mut packed = pack(path, Form::Nar);
    while let Some(piece) = packed.piece().await? {
        console.write(&piece).await?;
    }
    console.flush().await
}

/// Makes a key and writes its halves to files; only the user can read the secret one.
pub(super) fn generate_key(
    name: &str,
    secret_file: &Path,
    public_file: &Path,
) -> Result<(), CompatError> {
    let key = SecretKey::generate(name)?;
    write(public_file, 0o666, key.public_key().to_string().as_bytes())?;
    write(secret_file, 0o600, key.to_text().as_bytes())
}

fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), CompatError> {
    let written = || -> io::Result<()> {
        let mut how = File::options();
        let mut file = how.write(true).create(true).truncate(true).mode(mode).open(path)?;
        if mode == 0o600 {
            // one that was there already may be open to others
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        file.write_all(bytes)?;
        file.sync_all()
    };
    written().map_err(|source| CompatError::File {
        action: "writing file",
        path: path.to_owned(),
        source,
    })
}
