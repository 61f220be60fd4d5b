//! Archives as channels have them, and as nobody should.

use std::io::Write as _;

use rstest::rstest;
use tempfile::TempDir;

use super::*;
use crate::{Builtin, Fetching, Task};

/// A member of an archive: what it is, its path, where a link leads or what is in a file.
struct Member(EntryType, &'static str, &'static str);

fn file(path: &'static str) -> Member {
    Member(EntryType::Regular, path, "text")
}

fn tar(members: &[Member]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for Member(kind, path, what) in members {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(if path.ends_with(".sh") { 0o775 } else { 0o664 });
        // as it's given, which tar's own way doesn't allow
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        if is_link {
            header.as_old_mut().linkname[..what.len()].copy_from_slice(what.as_bytes());
        }
        let contents = if is_link { "" } else { what };
        header.set_size(contents.len() as u64);
        header.set_cksum();
        builder.append(&header, contents.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn unpack_bytes(archive: &[u8], name: &str) -> (TempDir, Result<(), BuiltinError>) {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("archive"), archive).unwrap();
    let bytes = |path: &str| home.path().join(path).into_os_string().into_encoded_bytes();
    let task = Task {
        builtin: Builtin::UnpackChannel,
        environment: [("src", bytes("archive")), ("channelName", name.into())]
            .map(|(name, value)| (name.into(), value))
            .into(),
        out: bytes("out"),
        fetching: Fetching::default(),
    };
    let bytes = task.to_bytes().unwrap();
    let again: Task = postcard::from_bytes(&bytes).unwrap();
    let done = again.carry_out();
    (home, done)
}

/// Returns all that is below a folder, with what is in it.
fn listing(folder: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut lines = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let shown = path.strip_prefix(folder).unwrap().display().to_string();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                lines.push(format!("{shown}/"));
                folders.push(path);
            } else if metadata.is_symlink() {
                lines.push(format!("{shown} -> {}", std::fs::read_link(path).unwrap().display()));
            } else {
                let program = if metadata.permissions().mode() & 0o100 == 0 { "" } else { "*" };
                lines.push(format!("{shown}{program} {}", std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    lines.sort();
    lines
}

fn usual() -> Vec<u8> {
    tar(&[
        Member(
            EntryType::XGlobalHeader,
            "pax_global_header",
            "52 comment=0000000000000000000000000000000000000000\n",
        ),
        Member(EntryType::Directory, "nixpkgs/", ""),
        file("nixpkgs/default.nix"),
        file("./nixpkgs/lib/run.sh"),
        Member(EntryType::Symlink, "nixpkgs/link", "/anywhere"),
        Member(EntryType::Link, "nixpkgs/same", "nixpkgs/default.nix"),
        Member(EntryType::Regular, "nixpkgs/default.nix", "the last counts"),
    ])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[rstest]
#[case::plain(|bytes: &[u8]| bytes.to_vec())]
#[case::gzip(gzip)]
#[case::bzip2(bzip2)]
fn a_channel_is_unpacked(#[case] compress: fn(&[u8]) -> Vec<u8>) {
    let (home, done) = unpack_bytes(&compress(&usual()), "mine");
    done.unwrap();
    let expected = [
        "mine/",
        "mine/default.nix the last counts",
        "mine/lib/",
        "mine/lib/run.sh* text",
        "mine/link -> /anywhere",
        "mine/same text",
    ];
    assert_eq!(listing(&home.path().join("out")), expected);
}

/// Whatever an archive says, nothing comes about but in its folder.
#[rstest]
#[case::upwards(vec![file("a/../../evil")], "leads upwards")]
#[case::folder_upwards(vec![Member(EntryType::Directory, "../evil/", "")], "leads upwards")]
#[case::through_a_link(vec![Member(EntryType::Symlink, "a/l", ".."), file("a/l/../evil")], "leads upwards")]
#[case::below_a_link(vec![Member(EntryType::Symlink, "l", "/tmp"), file("l/evil")], "below something that is a link")]
#[case::folder_below(vec![Member(EntryType::Symlink, "l", "/tmp"), Member(EntryType::Directory, "l", "")], "below something that is a link")]
#[case::below_a_file(vec![file("a"), file("a/evil")], "below something that is a link or a file")]
#[case::hard_link_out(vec![Member(EntryType::Link, "a/l", "../../../../../etc/passwd")], "leads upwards")]
#[case::hard_link_by_a_link(
    vec![Member(EntryType::Symlink, "l", "/etc"), Member(EntryType::Link, "p", "l/passwd")],
    "below something that is a link"
)]
#[case::hard_link_to_nothing(vec![Member(EntryType::Link, "a/l", "/etc/passwd")], "No such file")]
#[case::hard_link_to_a_folder(vec![file("a/x"), Member(EntryType::Link, "b", "a")], "same as a folder")]
#[case::device(vec![Member(EntryType::Char, "a/null", "")], "neither a file")]
#[case::fifo(vec![Member(EntryType::Fifo, "a/fifo", "")], "neither a file")]
#[case::in_place_of_all(vec![Member(EntryType::Symlink, "./", "/tmp")], "in the place of the whole")]
#[case::in_place_of_a_folder(vec![file("a/x"), file("a")], "a folder in its place")]
#[case::nothing(vec![], "0 files at its top")]
#[case::much(vec![file("a"), file("b"), file("c")], "3 files at its top")]
fn what_is_refused(#[case] members: Vec<Member>, #[case] what: &str) {
    let (home, done) = unpack_bytes(&tar(&members), "mine");
    let said = drover_core::with_causes(&done.unwrap_err());
    assert!(said.contains(what), "{said}");
    assert!(!home.path().join("evil").exists() && !Path::new("/tmp/evil").exists());
}

/// Where it's absolute, it's so in the folder.
#[test]
fn absolute_paths_are_relative() {
    let members = [file("/etc/a"), Member(EntryType::Link, "/etc/b", "/etc/a")];
    let (home, done) = unpack_bytes(&tar(&members), "mine");
    done.unwrap();
    assert_eq!(listing(&home.path().join("out")), ["mine/", "mine/a text", "mine/b text"]);
}

#[rstest]
#[case::cut(&usual()[..700], "Archive")]
#[case::not_at_all(b"something else that is quite long, but no archive", "Archive")]
#[case::gzip_cut(&gzip(&usual())[..60], "Archive")]
#[case::wrong_sum(&{ let mut bytes = gzip(&usual()); let at = bytes.len() - 5; bytes[at] ^= 1; bytes }, "Archive")]
#[case::zstd(b"\x28\xb5\x2f\xfd....", "zstd")]
#[case::zip(b"PK\x03\x04....", "zip")]
fn what_is_broken(#[case] archive: &[u8], #[case] what: &str) {
    let (_home, done) = unpack_bytes(archive, "mine");
    let error = done.unwrap_err();
    let said = format!("{error:?} {}", drover_core::with_causes(&error));
    assert!(said.contains(what), "{said}");
}

#[rstest]
#[case::folders("a/b")]
#[case::upwards("..")]
#[case::itself(".")]
#[case::empty("")]
fn bad_names(#[case] name: &str) {
    let (home, done) = unpack_bytes(&usual(), name);
    assert!(matches!(done, Err(BuiltinError::ChannelName { .. })), "{done:?}");
    assert!(!home.path().join("out").exists());
}
