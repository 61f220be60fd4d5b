//! NARs that are not what was announced, or do not come whole.

use std::path::PathBuf;

use bytes::Bytes;
use drover_core::PathInfo;
use drover_store::contract::flat_file;
use drover_store::{Store as _, StoreError};
use rstest::rstest;

use crate::server::{Mischief, Server};
use crate::{alter, fetch, fill, impatient, nar_of, narinfo_of, noise, open, quick, rest, three};

const FOREVER: usize = usize::MAX;

struct Lab {
    folder: tempfile::TempDir,
    server: Server,
    info: PathInfo,
    nar: Bytes,
    url: String,
}

impl Lab {
    /// A server with one path, large enough that it comes in many pieces.
    async fn new(compression: &str) -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let paths = three();
        fill(folder.path(), &format!("compression={compression}"), &paths).await;
        let server = Server::start(folder.path().to_owned()).await;
        let (info, nar) = paths[1].clone();
        let url = nar_of(folder.path(), &info);
        Lab { folder, server, info, nar, url }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(&self.url[1..])
    }

    fn says(&self, change: impl Fn(String) -> String) {
        alter(self.folder.path(), &self.info, change);
    }
}

/// A NAR that breaks off is begun anew, and what was handed on isn't handed on twice.
#[rstest]
#[tokio::test]
async fn goes_on_where_it_broke_off(
    #[values("none", "xz", "zstd", "bzip2", "gzip", "br")] compression: &str,
    #[values(Mischief::Cut(250_000), Mischief::Stall(250_000), Mischief::Cut(0))]
    mischief: Mischief,
) {
    let lab = Lab::new(compression).await;
    lab.server.misbehave(&lab.url, mischief, 2);
    let store = open(&lab.server.url(), impatient());
    assert!(fetch(&store, &lab.info).await.unwrap() == lab.nar);
    assert_eq!(lab.server.count(&lab.url), 3);
}

#[tokio::test]
async fn is_given_up_when_it_breaks_off_too_often() {
    let lab = Lab::new("zstd").await;
    lab.server.misbehave(&lab.url, Mischief::Cut(100_000), FOREVER);
    let store = open(&lab.server.url(), quick());
    let error = fetch(&store, &lab.info).await.unwrap_err();
    assert!(matches!(error, StoreError::Lost { .. }), "{error:?}");
    assert!(error.to_string().contains(&lab.url), "{error}");
    assert_eq!(lab.server.count(&lab.url), 3);
    lab.server.misbehave(&lab.url, Mischief::Stall(100_000), FOREVER);
    let error = fetch(&open(&lab.server.url(), impatient()), &lab.info).await.unwrap_err();
    assert!(matches!(error, StoreError::Silent { .. }), "{error:?}");
}

/// A file that is cut on the disk of its server will not get better.
#[rstest]
#[tokio::test]
async fn a_file_that_is_cut_is_not_whole(
    #[values("none", "xz", "zstd", "bzip2", "gzip", "br")] compression: &str,
    #[values(1, 100, 150_000)] left: usize,
) {
    let lab = Lab::new(compression).await;
    let file = std::fs::read(lab.file()).unwrap();
    for len in [left, file.len() - left] {
        lab.server.misbehave(&lab.url, Mischief::Body(file[..len].to_vec()), FOREVER);
        for checked in [true, false] {
            let store = open(&lab.server.url(), quick());
            let infos = vec![lab.info.clone()];
            let mut stream = match checked {
                true => store.export(infos).await.unwrap(),
                false => store.export_to_checker(infos).await.unwrap(),
            };
            stream.next_path().await.unwrap();
            assert!(rest(&mut *stream).await.is_err(), "{len} bytes of it are whole");
        }
    }
    assert_eq!(lab.server.count(&lab.url), 4, "it was tried again");
}

/// One compression is not another, nor is it noise.
#[rstest]
#[tokio::test]
async fn the_wrong_codec_is_refused(
    #[values("xz", "zstd", "bzip2", "gzip", "br")] said: &str,
    #[values("none", "xz", "zstd")] real: &str,
) {
    if said == real {
        return;
    }
    let lab = Lab::new(real).await;
    lab.says(|text| text.replace(&format!("Compression: {real}"), &format!("Compression: {said}")));
    let error = fetch(&open(&lab.server.url(), quick()), &lab.info).await.unwrap_err();
    let text = error.to_string();
    // of other paths that says nothing
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert!(text.contains(&lab.url) && text.contains(&format!("no good {said}")), "{text}");
    assert_eq!(lab.server.count(&lab.url), 1);
}

/// What is larger than announced is cut off there, however small it was on its way.
#[rstest]
#[tokio::test]
async fn a_bomb_does_not_go_off(
    #[values("none", "xz", "zstd", "bzip2", "gzip", "br")] compression: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let (bomb, nar) = flat_file("bomb", &vec![0; 16_000_000], &[]);
    let parameters = format!("compression={compression}");
    fill(folder.path(), &parameters, &vec![(bomb.clone(), nar)]).await;
    let said = PathInfo { nar_size: drover_core::NarSize(1000), ..bomb.clone() };
    alter(folder.path(), &bomb, |text| {
        let lines = text.lines().filter(|line| !line.starts_with("FileSize"));
        let size = format!("NarSize: {}", bomb.nar_size.0);
        let lines = lines.map(|line| if line == size { "NarSize: 1000" } else { line });
        lines.map(|line| format!("{line}\n")).collect()
    });
    let server = Server::start(folder.path().to_owned()).await;
    for url in [server.url(), format!("file://{}", folder.path().display())] {
        let store = open(&url, quick());
        let mut stream = store.export_to_checker(vec![said.clone()]).await.unwrap();
        stream.next_path().await.unwrap();
        let mut came = 0;
        let error = loop {
            match stream.chunk().await {
                Ok(Some(piece)) => came += piece.len(),
                Ok(None) => panic!("it came whole"),
                Err(error) => break error,
            }
        };
        assert!(came <= 1000, "{came} bytes were handed on");
        assert!(error.to_string().contains("announced as 1000 bytes"), "{error}");
    }
}

/// Compressed bytes without end are cut off, too.
#[rstest]
#[case::told(|text: String| text)]
#[case::not_told(|text: String| {
    text.lines().filter(|line| !line.starts_with("FileSize")).map(|l| format!("{l}\n")).collect()
})]
#[tokio::test]
async fn a_file_without_end_is_cut_off(#[case] change: fn(String) -> String) {
    let lab = Lab::new("none").await;
    let file = lab.folder.path().join(&narinfo_of(&lab.info)[1..]);
    let text = change(std::fs::read_to_string(&file).unwrap());
    std::fs::write(file, text).unwrap();
    lab.server.misbehave(&lab.url, Mischief::Endless, FOREVER);
    let error = fetch(&open(&lab.server.url(), quick()), &lab.info).await.unwrap_err();
    assert!(!error.to_string().is_empty());
    assert_eq!(lab.server.count(&lab.url), 1);
    // Empty members of gzip may follow one another without end.
    lab.says(|text| text.replace("Compression: none", "Compression: gzip"));
    let empty = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let endless = empty.repeat(100_000);
    lab.server.misbehave(&lab.url, Mischief::Body(endless), FOREVER);
    let error = fetch(&open(&lab.server.url(), quick()), &lab.info).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("there are more than the") && text.contains(&lab.url), "{text}");
}

/// What has a larger window than anybody needs is refused before it is given any memory.
#[tokio::test]
async fn a_window_of_2_gib_is_refused() {
    let lab = Lab::new("zstd").await;
    // A frame with a window descriptor of 2^31 bytes, no content size, and one raw block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x09, 0, 0, b'x'];
    lab.server.misbehave(&lab.url, Mischief::Body(frame.to_vec()), FOREVER);
    let error = fetch(&open(&lab.server.url(), quick()), &lab.info).await.unwrap_err().to_string();
    assert!(error.contains("no good zstd") && error.contains("memory"), "{error}");
}

/// Members that follow one another are one file.
#[rstest]
#[tokio::test]
async fn members_are_joined(#[values("xz", "zstd", "bzip2", "gzip")] compression: &str) {
    let lab = Lab::new(compression).await;
    // The same bytes as two members: made by two caches, of halves that are no NARs of their own.
    let (first, second) = lab.nar.split_at(lab.nar.len() / 3);
    let mut joined = Vec::new();
    for part in [first, second] {
        joined.extend(compress(compression, part));
    }
    lab.server.misbehave(&lab.url, Mischief::Body(joined), FOREVER);
    lab.says(|text| text.replace("FileSize: ", "FileSize: 9"));
    let store = open(&lab.server.url(), quick());
    assert!(fetch(&store, &lab.info).await.unwrap() == lab.nar);
}

fn compress(compression: &str, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut child = std::process::Command::new(compression)
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[tokio::test]
async fn other_contents_are_refused() {
    let lab = Lab::new("none").await;
    let mut other = lab.nar.to_vec();
    other[100_000] ^= 1;
    lab.server.misbehave(&lab.url, Mischief::Body(other.clone()), FOREVER);
    let store = open(&lab.server.url(), quick());
    let error = fetch(&store, &lab.info).await.unwrap_err();
    assert!(matches!(error, StoreError::HashMismatch { .. }), "{error:?}");
    assert!(store.small_nar(lab.info.clone()).await.is_err());
    // Who checks by himself is given what is there.
    let mut stream = store.export_to_checker(vec![lab.info.clone()]).await.unwrap();
    stream.next_path().await.unwrap();
    assert!(rest(&mut *stream).await.unwrap() == other);
    for len in [lab.nar.len() - 1, lab.nar.len() + 1] {
        let mut sized = lab.nar.to_vec();
        sized.resize(len, 0);
        lab.server.misbehave(&lab.url, Mischief::Body(sized), FOREVER);
        lab_refuses(&lab).await;
    }
}

async fn lab_refuses(lab: &Lab) {
    let error = fetch(&open(&lab.server.url(), quick()), &lab.info).await.unwrap_err();
    let text = error.to_string();
    let size = matches!(error, StoreError::SizeMismatch { .. });
    assert!(size || text.contains("there are more than the"), "{text}");
}

/// When it changes between two attempts, what came before counts, and the whole is refused.
#[tokio::test]
async fn two_halves_of_two_files_are_refused() {
    let lab = Lab::new("none").await;
    lab.server.misbehave(&lab.url, Mischief::Cut(250_000), 1);
    let store = open(&lab.server.url(), quick());
    let mut stream = store.export(vec![lab.info.clone()]).await.unwrap();
    stream.next_path().await.unwrap();
    stream.chunk().await.unwrap();
    let other = std::iter::repeat_n(b'x', lab.nar.len()).collect();
    while lab.server.count(&lab.url) == 0 {
        tokio::task::yield_now().await;
    }
    lab.server.misbehave(&lab.url, Mischief::Body(other), FOREVER);
    let error = rest(&mut *stream).await.unwrap_err();
    assert!(matches!(error, StoreError::HashMismatch { .. }), "{error:?}");
}

#[tokio::test]
async fn a_nar_that_is_gone_is_named_and_its_narinfo_forgotten() {
    let lab = Lab::new("zstd").await;
    let store = open(&lab.server.url(), quick());
    store.path_infos(std::slice::from_ref(&lab.info.path)).await.unwrap();
    let moved = lab.file().with_extension("away");
    std::fs::rename(lab.file(), &moved).unwrap();
    let error = fetch(&store, &lab.info).await.unwrap_err();
    let is_named = matches!(&error, StoreError::NotValid { path, .. } if *path == lab.info.path);
    assert!(is_named, "{error:?}");
    std::fs::rename(moved, lab.file()).unwrap();
    assert!(fetch(&store, &lab.info).await.unwrap() == lab.nar);
    assert_eq!(lab.server.count(&narinfo_of(&lab.info)), 2);
}

/// One path that fails says nothing of those before it, and who goes on without it gets the others.
#[tokio::test]
async fn others_come_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let paths: crate::Paths =
        (0..9).map(|number| flat_file(&format!("n{number}"), &noise(number, 900), &[])).collect();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    server.misbehave(&nar_of(folder.path(), &paths[4].0), Mischief::Garbage, FOREVER);
    let store = open(&server.url(), quick());
    let mut stream = store.export(crate::infos(&paths)).await.unwrap();
    for (at, (_, nar)) in paths.iter().enumerate() {
        stream.next_path().await.unwrap().unwrap();
        match (at, rest(&mut *stream).await) {
            (4, came) => assert!(came.is_err()),
            (_, came) => assert!(came.unwrap() == *nar),
        }
    }
}
