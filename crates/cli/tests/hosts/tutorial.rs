//! The tutorial, run: every block of `docs/tutorial.md` that says where it belongs, in its order.
//!
//! A block's first line is its language and where it is run: `sh,at-HOST` (as alice; `as-root` as root), or
//! `nix,at-HOST,file=NAME` for a file to be saved. `text,output` is what the block before it prints: each line
//! stands in the output, in this order, and `…` is any text.

use std::collections::BTreeMap;
use std::time::Duration;

use drover_testkit::{Fleet, Host, Suite};

/// How long the commands of a block may take.
const LIMIT: Duration = Duration::from_secs(180);

#[derive(Debug)]
struct Block {
    line: usize,
    info: Vec<String>,
    text: String,
}

impl Block {
    /// Returns the value of a word such as `at-HOST` or `file=NAME`.
    fn value(&self, prefix: &str) -> Option<&str> {
        self.info.iter().find_map(|word| word.strip_prefix(prefix))
    }

    fn is(&self, word: &str) -> bool {
        self.info.iter().any(|it| it == word)
    }
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, text) in page.lines().enumerate() {
        match (text.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(info), None) => {
                let info = info.split(',').map(str::to_owned).collect();
                open = Some(Block { line: index + 1, info, text: String::new() });
            }
            (None, Some(mut block)) => {
                block.text += text;
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed: {open:?}");
    blocks
}

/// Whether a text holds the pieces that stand between the ellipses, in this order.
fn matches(mut text: &str, pattern: &str) -> bool {
    pattern.split('…').filter(|piece| !piece.is_empty()).all(|piece| match text.split_once(piece) {
        Some((_, rest)) => {
            text = rest;
            true
        }
        None => false,
    })
}

#[allow(clippy::print_stdout, reason = "what came before is shown where a block fails")]
fn run(host: &Host, block: &Block) -> String {
    let text = block.text.replace("x86_64", std::env::consts::ARCH);
    let (user, home) =
        if block.is("as-root") { ("root", "/root") } else { ("alice", "/home/alice") };
    let script = format!("cd {home}\n{text}");
    let line =
        ["su", user, "-s", "/bin/bash", "-c", "exec bash -euo pipefail -c \"$0\" 2>&1", &script];
    let output = host.run_within(LIMIT, &line).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "docs/tutorial.md:{}: {} at {}: {text}\n{said}",
        block.line,
        output.status,
        host.name()
    );
    println!("docs/tutorial.md:{}, at {}:\n{said}", block.line, host.name());
    said
}

fn save(host: &Host, block: &Block, name: &str) {
    let path = format!("/home/alice/{name}");
    host.write(&path, &block.text).unwrap();
}

/// Makes the machines of the page's first lines.
fn machines(fleet: &Fleet) -> BTreeMap<String, Host> {
    let hosts = fleet.hosts([
        ("laptop", Suite::Forky),
        ("alpha", Suite::Trixie),
        ("beta", Suite::Bookworm),
        ("head", Suite::Forky),
    ]);
    let hosts: BTreeMap<String, Host> =
        hosts.unwrap().into_iter().map(|host| (host.name().to_owned(), host)).collect();
    for (name, host) in &hosts {
        host.sh("sed -i 's/^trusted-users = root$/trusted-users = root alice/' /etc/nix/nix.conf")
            .unwrap();
        // as Nix has it by default, and what the page says about it
        let shell = "sandbox = true\\nextra-sandbox-paths = \\/bin\\/sh=\\/usr\\/bin\\/busybox";
        host.sh(&format!("sed -i 's/^sandbox = false$/{shell}/' /etc/nix/nix.conf")).unwrap();
        match name.as_str() {
            "head" => {
                host.sh("pkill -x nix-daemon; rm -f /nix/var/nix/daemon-socket/socket").map(drop)
            }
            _ => host.restart_daemon(),
        }
        .unwrap();
    }
    for name in ["laptop", "head"] {
        let host = hosts.get(name).unwrap();
        host.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    }
    hosts
}

#[test]
fn every_command_of_the_tutorial_does_what_it_says() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tutorial.md");
    let blocks = blocks(&fs_err::read_to_string(page).unwrap());
    let fleet = Fleet::new("tutorial").unwrap();
    let hosts = machines(&fleet);
    let mut said = String::new();
    let mut ran = 0;
    for block in &blocks {
        if block.is("output") {
            let mut rest = said.as_str();
            for line in block.text.lines() {
                let line = line.replace("x86_64", std::env::consts::ARCH);
                assert!(
                    matches(rest, &line),
                    "docs/tutorial.md:{}: no '{line}' in\n{rest}",
                    block.line
                );
                let first = line.split('…').find(|piece| !piece.is_empty()).unwrap_or_default();
                rest = rest.split_once(first).map_or("", |(_, rest)| rest);
            }
            continue;
        }
        let host = block.value("at-").and_then(|name| hosts.get(name));
        let host =
            host.unwrap_or_else(|| panic!("docs/tutorial.md:{}: where is this?", block.line));
        match block.value("file=") {
            Some(name) => save(host, block, name),
            None => said = run(host, block),
        }
        ran += 1;
    }
    assert!(10 < ran, "only {ran} blocks were run");
}
