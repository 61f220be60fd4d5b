//! What a path costs in memory does not depend on its size.

use std::collections::BTreeSet;
use std::process::Command;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{HashAlgorithm, IngestionMethod};
use drover_nar::{Executable, Writer};
use drover_store::{ByteStream, Content, Keeper, Store, StoreError, WhenValid};
use drover_store_local::{ContentSync, LocalOptions};

use crate::support::Home;

const CHILD: &str = "STORE_LOCAL_MEMORY";
const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 512;

/// The most memory that this process ever had, in KiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The NAR of a file that is never whole in memory.
struct LargeNar {
    head: Option<Bytes>,
    block: Bytes,
    blocks: usize,
    tail: Option<Bytes>,
}

impl LargeNar {
    fn new(blocks: usize) -> LargeNar {
        let nar = |size: u64| {
            let mut writer = Writer::new(Vec::new()).expect("written");
            writer.regular(Executable::No, size).expect("written");
            writer
        };
        // What comes before the contents, and what comes behind them, is the same for an empty file
        // but for the size.
        let empty = nar(0).finish().expect("whole");
        let contents = b"contents";
        let at = empty.windows(8).position(|bytes| bytes == contents).expect("contents") + 16;
        let (before, tail) = empty.split_at(at);
        let size = (blocks * BLOCK) as u64;
        let mut head = before.to_vec();
        head.truncate(at - 8);
        head.extend_from_slice(&size.to_le_bytes());
        let block: Vec<u8> =
            (0..BLOCK).map(|byte| u8::try_from(byte % 251).unwrap_or_default()).collect();
        let tail = Bytes::copy_from_slice(tail);
        LargeNar { head: Some(head.into()), block: block.into(), blocks, tail: Some(tail) }
    }
}

#[async_trait]
impl ByteStream for LargeNar {
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        if self.blocks > 0 {
            self.blocks -= 1;
            return Ok(Some(self.block.clone()));
        }
        Ok(self.tail.take())
    }
}

/// Adds a path of so many blocks, and copies it to another store; returns its size.
async fn add_and_copy(blocks: usize) -> u64 {
    let options = LocalOptions { contents: ContentSync::Off, ..LocalOptions::default() };
    let (home, other) = (Home::new(), Home::new());
    let store = home.store_with(options.clone());
    let content = Content {
        name: "large".parse().expect("a name"),
        method: IngestionMethod::Nar,
        algorithm: HashAlgorithm::Sha256,
        references: BTreeSet::new(),
    };
    let bytes = Box::new(LargeNar::new(blocks));
    let mut info = store.add_content(content, bytes, WhenValid::Keep).await.expect("added");
    let size = info.nar_size.0;
    // The other store's directory has another path for the same contents.
    let exported = store.export(vec![info.clone()]).await.expect("a stream");
    info.content_address = None;
    other.store_with(options).import(exported_as(info, exported)).await.expect("copied");
    size
}

fn exported_as(
    info: drover_core::PathInfo,
    contents: Box<dyn drover_store::PathStream>,
) -> Box<dyn drover_store::PathStream> {
    Box::new(Renamed { info: Some(info), contents })
}

struct Renamed {
    info: Option<drover_core::PathInfo>,
    contents: Box<dyn drover_store::PathStream>,
}

#[async_trait]
impl drover_store::PathStream for Renamed {
    fn count(&self) -> usize {
        1
    }

    async fn next_path(&mut self) -> Result<Option<drover_core::PathInfo>, StoreError> {
        self.contents.next_path().await?;
        Ok(self.info.take())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.contents.chunk().await
    }
}

/// In a process of its own, as the peak is the process's.
#[test]
fn a_large_path_takes_no_more_memory_than_a_small_one() {
    if std::env::var_os(CHILD).is_none() {
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "memory::a_large_path_takes_no_more_memory_than_a_small_one"])
            .arg("--nocapture")
            .env(CHILD, "1")
            .output()
            .expect("a process");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
        println!("{said}");
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(add_and_copy(1));
    let before = peak();
    let size = runtime.block_on(add_and_copy(BLOCKS));
    assert!((BLOCKS * BLOCK) as u64 <= size);
    let grown = peak() - before;
    println!("{} MiB more for a path of {} MiB", grown / 1024, size >> 20);
    assert!(grown < 64 * 1024, "{grown} KiB more for {size} bytes");
}
