//! The garbage collector's side of the socket on which it is told of roots.
//!
//! As the server thread of `LocalStore::collectGarbage` in Nix's `src/libstore/gc.cc`: paths come
//! one a line, each is answered by `1` once it is safe. One thread serves all; it never waits for
//! any of them, and each has bounds on what it may have under way.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use drover_core::{StoreDir, StorePath};
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::roots_connection::{Connection, State};
use crate::roots_state::{Claim, Ended, RootsState};
use crate::{GcLock, LockError, socket};

/// Connections at a time. One more ends the one that has been silent longest, whose owner connects
/// again when it has another root.
const MAX_CONNECTIONS: usize = 512;

/// The roots of a garbage collection, as they come.
///
/// Keep it until the last path is deleted, and the GC lock longer than it.
pub struct RootsServer {
    shared: Arc<Shared>,
    wake: Arc<Ended>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    roots: RootsState,
    store_dir: StoreDir,
    event: OwnedFd,
    stop: AtomicBool,
}

impl Shared {
    /// Makes the server look at everything again.
    fn wake(&self) {
        // It can only fail by having been woken many times already.
        rustix::io::write(&self.event, &1_u64.to_ne_bytes()).ok();
    }
}

impl RootsServer {
    /// Begins to listen.
    ///
    /// The lock makes sure that it is the only one that does.
    ///
    /// # Errors
    ///
    /// The socket can't be made.
    pub fn start(
        _only: &GcLock,
        state_dir: &Path,
        store_dir: &StoreDir,
    ) -> Result<RootsServer, LockError> {
        let path = socket::path(state_dir);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let event = rustix::event::eventfd(0, flags)
            .map_err(|errno| LockError::io("make an event for", &path, errno))?;
        let listener = socket::listen(state_dir)?;
        let shared = Arc::new(Shared {
            roots: RootsState::default(),
            store_dir: store_dir.clone(),
            event,
            stop: AtomicBool::new(false),
        });
        let server = Server { shared: shared.clone(), listener, connections: VecDeque::new() };
        let thread = std::thread::Builder::new()
            .name("gc-roots".to_owned())
            .spawn(move || server.run())
            .map_err(|source| LockError::Io { action: "begin to serve", path, source })?;
        let waker = shared.clone();
        let wake = Arc::new(move || waker.wake());
        Ok(RootsServer { shared, wake, thread: Some(thread) })
    }

    /// Whether a root has come that protects `path`.
    pub fn is_root(&self, path: &StorePath) -> bool {
        self.shared.roots.is_root(path)
    }

    /// Asks for the deletion of paths, all or none. Paths must be asked for before what they refer
    /// to is: then whatever a late root needs is still there.
    pub fn claim(&self, paths: &[StorePath]) -> Claim<'_> {
        self.shared.roots.claim(paths, &*self.wake)
    }
}

impl Drop for RootsServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // It has no state worth a panic of ours.
            drop(thread.join());
        }
    }
}

/// The thread's part.
struct Server {
    shared: Arc<Shared>,
    listener: OwnedFd,
    /// Those that were silent longest come first.
    connections: VecDeque<Connection>,
}

impl Server {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            if let Err(Errno::NOMEM | Errno::INVAL | Errno::BADF) = self.wait() {
                break;
            }
            self.serve();
        }
        // Who has connected or written by now gets its answer: nothing is deleted any more.
        self.serve();
    }

    fn serve(&mut self) {
        let mut drained = [0; 8];
        rustix::io::read(&self.shared.event, &mut drained).ok();
        self.accept();
        let (roots, store_dir) = (&self.shared.roots, &self.shared.store_dir);
        let mut busy = VecDeque::new();
        let mut silent = VecDeque::new();
        for mut connection in self.connections.drain(..) {
            match connection.serve(roots, store_dir) {
                State::Ended => {}
                State::Silent => silent.push_back(connection),
                State::Busy => busy.push_back(connection),
            }
        }
        silent.append(&mut busy);
        self.connections = silent;
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // So many at a time, that those who connect without end don't keep the others waiting.
        for _ in 0..MAX_CONNECTIONS {
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => self.connections.push_back(Connection::new(socket)),
                Err(Errno::MFILE | Errno::NFILE) if !self.connections.is_empty() => {
                    self.connections.pop_front();
                    return;
                }
                Err(_) => return,
            }
            if MAX_CONNECTIONS < self.connections.len() {
                self.connections.pop_front();
            }
        }
    }

    /// Waits until somebody connects, has written, takes answers again, or a deletion has ended.
    fn wait(&self) -> Result<(), Errno> {
        let fixed = [self.shared.event.as_fd(), self.listener.as_fd()];
        let mut all: Vec<PollFd<'_>> =
            fixed.iter().map(|file| PollFd::new(file, PollFlags::IN)).collect();
        all.extend(self.connections.iter().filter_map(|connection| {
            Some(PollFd::new(connection.socket(), connection.waits_for()?))
        }));
        rustix::event::poll(&mut all, None).map(drop)
    }
}

impl std::fmt::Debug for RootsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootsServer").finish_non_exhaustive()
    }
}
