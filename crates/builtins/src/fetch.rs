//! `builtin:fetchurl`: one file, or the tree that an archive of Nix has in it.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use drover_download::{Client, DownloadError, Receiver, without_password};
use drover_nar::Limits;
use drover_store_files::{FileName, Unpacker};
use lzma_rust2::XzReader;

use crate::attributes::{Attributes, path};
use crate::task::say;
use crate::{BuiltinError, Fetching};

/// Memory that unpacking may take, in KiB: what `xz -9` needs to be unpacked, several times over.
const XZ_MEMORY: u32 = 512 * 1024;

/// Bytes that are unpacked at once.
const PIECE: usize = 128 * 1024;

/// Where an archive is kept until it's unpacked, in the build's own folder.
const ARCHIVE: &str = "archive";

/// Downloads what the attributes say.
pub(crate) fn fetch(
    attributes: Attributes<'_>,
    out: &[u8],
    fetching: &Fetching,
) -> Result<(), BuiltinError> {
    let (url, out) = (attributes.text("url")?, path(out));
    let client = Client::new(fetching.settings())?;
    let unpack = attributes.is_set("unpack");
    let kept = match unpack {
        true => Path::new(ARCHIVE),
        false => out.as_path(),
    };
    let mut kept = Kept::create(kept)?;
    from_somewhere(&client, url, fetching, &mut kept)?;
    if unpack {
        unpack_to(&out, url, kept.file)?;
    }
    if attributes.is_set("executable") {
        make_executable(&out)?;
    }
    Ok(())
}

/// Asks the mirrors first, whose failures are none: there are others to ask.
fn from_somewhere(
    client: &Client,
    url: &str,
    fetching: &Fetching,
    kept: &mut Kept,
) -> Result<(), BuiltinError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BuiltinError::io("begin", "a download"))?;
    let done = runtime.block_on(async {
        if let Some(hash) = &fetching.hash {
            for mirror in &fetching.hashed_mirrors {
                let mirror = mirror.strip_suffix('/').unwrap_or(mirror);
                let found = format!("{mirror}/{}/{}", hash.algorithm, hash.digits);
                say(&format!("downloading '{}'", without_password(&found)));
                match client.download(&found, kept).await {
                    Ok(()) => return Ok(()),
                    Err(error) => say(&format!("{error}; trying elsewhere")),
                }
            }
        }
        say(&format!("downloading '{}'", without_password(url)));
        client.download(url, kept).await
    });
    // what looks names up may still wait for an answer that nobody needs any more
    runtime.shutdown_background();
    Ok(done?)
}

/// A file that gets what is downloaded.
struct Kept {
    file: File,
}

impl Kept {
    fn create(at: &Path) -> Result<Kept, BuiltinError> {
        // where builds aren't shut in, others may have put something there
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(at);
        Ok(Kept { file: file.map_err(BuiltinError::io("create", at))? })
    }
}

impl Receiver for Kept {
    fn begin(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn trying_again(&mut self, after: &DownloadError, pause: Duration) {
        say(&format!("warning: {after}; trying again in {} ms", pause.as_millis()));
    }
}

/// Unpacks an archive of Nix, which is compressed where its name says so.
fn unpack_to(out: &Path, url: &str, mut archive: File) -> Result<(), BuiltinError> {
    archive.seek(SeekFrom::Start(0)).map_err(BuiltinError::io("read", ARCHIVE))?;
    let archive = BufReader::with_capacity(PIECE, archive);
    match url.ends_with(".xz") {
        true => unpack_nar(out, url, &mut XzReader::new_mem_limit(archive, true, XZ_MEMORY)),
        false => unpack_nar(out, url, &mut { archive }),
    }
}

fn unpack_nar(out: &Path, url: &str, archive: &mut dyn Read) -> Result<(), BuiltinError> {
    let of_nar = |source| BuiltinError::Nar { url: url.to_owned(), source };
    let folder = out.parent().unwrap_or(Path::new("/"));
    let name = FileName::new(out.file_name().unwrap_or_default().as_encoded_bytes());
    let name = name.map_err(of_nar)?;
    let folder = File::open(folder).map_err(BuiltinError::io("open", folder))?;
    let unpacker = Unpacker::new(folder.as_fd(), &name, Limits::default());
    let mut unpacker = unpacker.map_err(of_nar)?;
    let mut piece = vec![0; PIECE];
    loop {
        let len = match archive.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(BuiltinError::io("unpack what is at", url))?,
        };
        match piece.get(..len) {
            Some(bytes) if !bytes.is_empty() => unpacker.push(bytes).map(drop).map_err(of_nar)?,
            _ => return unpacker.finish().map_err(of_nar),
        }
    }
}

fn make_executable(out: &Path) -> Result<(), BuiltinError> {
    let failed = || BuiltinError::io("make executable", out);
    let metadata = std::fs::symlink_metadata(out).map_err(failed())?;
    // what a link leads to isn't ours to change
    if metadata.is_symlink() {
        return Ok(());
    }
    std::fs::set_permissions(out, Permissions::from_mode(0o755)).map_err(failed())
}
