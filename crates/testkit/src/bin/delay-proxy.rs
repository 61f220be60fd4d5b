//! `delay-proxy MS HOST PORT`: an SSH `ProxyCommand` that holds every byte back for MS
//! milliseconds, each way, and adds no other limit.
//!
//! Kernels without `netem` cannot delay packets, so the distance sits in the pipe instead. The
//! connection itself takes one more round trip, as it would. Only `std` is used: the test kit
//! compiles this file with `rustc` alone.
#![allow(clippy::print_stderr)] // it is a program, and ssh shows what it prints

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes taken at once; with [`CHUNKS`] this bounds what is on its way to 64 MiB.
const CHUNK: usize = 64 << 10;
const CHUNKS: usize = 1 << 10;

type Chunk = (Instant, Vec<u8>);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [ms, host, port] => match (ms.parse::<u64>(), port.parse::<u16>()) {
            (Ok(ms), Ok(port)) => proxy(Duration::from_millis(ms), host, port),
            _ => usage(),
        },
        _ => usage(),
    };
    if let Err(error) = result {
        eprintln!("delay-proxy: {error}");
        std::process::exit(1);
    }
}

fn usage() -> std::io::Result<()> {
    Err(std::io::Error::other("usage: delay-proxy MILLISECONDS HOST PORT"))
}

fn proxy(delay: Duration, host: &str, port: u16) -> std::io::Result<()> {
    thread::sleep(delay * 2);
    let stream = TcpStream::connect((host, port))?;
    stream.set_nodelay(true)?;
    let (there, back) = (stream.try_clone()?, stream.try_clone()?);

    let (sender, receiver) = sync_channel(CHUNKS);
    thread::spawn(move || take(std::io::stdin().lock(), &sender, delay));
    thread::spawn(move || {
        deliver(&there, &receiver);
        there.shutdown(Shutdown::Write).ok();
    });

    let (sender, receiver) = sync_channel(CHUNKS);
    thread::spawn(move || take(back, &sender, delay));
    deliver(std::io::stdout().lock(), &receiver);
    Ok(())
}

/// Reads until the end, noting when each piece is due on the other side.
fn take(mut from: impl Read, to: &SyncSender<Chunk>, delay: Duration) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let piece = buffer.get(..count).unwrap_or_default().to_vec();
        if to.send((Instant::now() + delay, piece)).is_err() {
            return;
        }
    }
}

/// Writes each piece when it is due.
fn deliver(mut to: impl Write, from: &Receiver<Chunk>) {
    for (due, piece) in from {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}
