//! What a hostile build tries, and what can happen to those who watch it.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use drover_sandbox::{Handles, Launcher, LauncherProgram, Plan};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};

use crate::machine;

/// Runs a plan with these files, says that it runs, and waits for its end.
pub(crate) fn call(launcher: &str, plan: &str, files: &[&str]) -> io::Result<()> {
    let plan: Plan = postcard::from_bytes(&std::fs::read(plan)?).map_err(io::Error::other)?;
    let mut handles = Handles::new();
    for file in files {
        let flags =
            if file.starts_with('+') { rustix::fs::OFlags::RDWR } else { rustix::fs::OFlags::PATH };
        let name = file.trim_start_matches('+');
        handles.add(rustix::fs::open(name, flags | rustix::fs::OFlags::CLOEXEC, 0.into())?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let program =
            LauncherProgram { program: launcher.into(), arguments: vec!["launcher".into()] };
        let launcher = Launcher::start(&program)?;
        let mut running = launcher.spawn(&plan, &handles).await.map_err(io::Error::other)?;
        println!("started {}", running.pid());
        io::stdout().flush()?;
        let ended = running.wait().await.map_err(io::Error::other)?;
        println!("{ended:?}");
        Ok(())
    })
}

/// Waits at an abstract socket, and writes through whatever file is handed over.
pub(crate) fn listen(name: &str) -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    rustix::net::listen(&socket, 1)?;
    println!("listening");
    io::stdout().flush()?;
    let peer = rustix::net::accept(&socket)?;
    let mut file = File::from(receive(&peer)?);
    file.write_all(b"changed from elsewhere")?;
    rustix::io::write(&peer, b"!")?;
    Ok(())
}

/// Opens a file for writing and hands it over to who waits at an abstract socket.
pub(crate) fn hand_over(name: &str, file: &str) -> io::Result<()> {
    let file = File::create(file)?;
    let peer = connect(name)?;
    send(&peer, &file)?;
    // Until the other has written.
    rustix::io::read(&peer, &mut [0_u8; 1])?;
    Ok(())
}

/// Waits at an abstract socket and hands a file to who comes.
pub(crate) fn give(name: &str, file: &str) -> io::Result<()> {
    let file = File::create(file)?;
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    rustix::net::listen(&socket, 1)?;
    println!("listening");
    io::stdout().flush()?;
    let peer = rustix::net::accept(&socket)?;
    send(&peer, &file)?;
    rustix::io::read(&peer, &mut [0_u8; 1])?;
    Ok(())
}

/// Goes to an abstract socket and writes through the file that is handed out there.
pub(crate) fn fetch(name: &str) -> io::Result<()> {
    let peer = connect(name)?;
    let mut file = File::from(receive(&peer)?);
    file.write_all(b"changed from elsewhere")?;
    rustix::io::write(&peer, b"!")?;
    Ok(())
}

/// Goes to an abstract socket, and says whether it came there.
pub(crate) fn reach(name: &str) -> io::Result<()> {
    connect(name)?;
    println!("connected");
    Ok(())
}

/// Makes what has set-user and set-group bits from its beginning, so that no call changes a mode, and says
/// which modes came of it.
pub(crate) fn make_set_id(folder: &str) -> io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, OFlags};
    const SET_ID: Mode = Mode::from_raw_mode(0o6755);
    let at = |name: &str| std::path::Path::new(folder).join(name);
    rustix::fs::openat(CWD, at("opened"), OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, SET_ID)?;
    rustix::fs::mknodat(CWD, at("made"), FileType::RegularFile, SET_ID, 0)?;
    rustix::fs::mkdirat(CWD, at("folder"), SET_ID)?;
    for name in ["opened", "made", "folder"] {
        println!("{name} {:o}", std::fs::metadata(at(name))?.permissions().mode() & 0o7777);
    }
    Ok(())
}

/// Takes hold of who has started it, so that this one can't do anything any more; and stays if that's refused.
pub(crate) fn trace_parent() -> io::Result<()> {
    let parent = rustix::process::getppid().ok_or_else(|| io::Error::other("no parent"))?;
    match machine::trace(parent.as_raw_nonzero().get()) {
        0 => println!("traced"),
        error => println!("{}", io::Error::from_raw_os_error(i32::try_from(-error).unwrap_or(0))),
    }
    io::stdout().flush()?;
    stubborn()
}

fn connect(name: &str) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    Ok(socket)
}

fn send(peer: &OwnedFd, file: &File) -> io::Result<()> {
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    rustix::net::sendmsg(peer, &[IoSlice::new(b"f")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Receives one open file.
pub(crate) fn receive(peer: &OwnedFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    let mut slices = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(peer, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    files.flatten().next().ok_or_else(|| io::Error::other("no file came"))
}

/// Leaves a process behind that has nothing to do with this one any more: of a session of its own,
/// without its death signal, deaf to all that can be ignored.
pub(crate) fn escape(seconds: &str) -> io::Result<()> {
    let seconds = seconds.parse().map_err(io::Error::other)?;
    let (reader, writer) = rustix::pipe::pipe()?;
    let between = machine::fork();
    if between == 0 {
        rustix::process::setsid()?;
        if machine::fork() == 0 {
            rustix::process::set_parent_process_death_signal(None)?;
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE]
            {
                machine::ignore(signal);
            }
            rustix::io::write(&writer, b"!")?;
            std::thread::sleep(Duration::from_secs(seconds));
        }
        std::process::exit(0);
    }
    drop(writer);
    rustix::io::read(&reader, &mut [0_u8; 1])?;
    // so that just one is left when this is said
    let between = rustix::process::Pid::from_raw(between);
    rustix::process::waitpid(between, rustix::process::WaitOptions::empty())?;
    println!("escaped");
    Ok(())
}

/// Ignores what can be ignored, drops its death signal, leaves such children, and stays.
pub(crate) fn stubborn() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(None)?;
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        machine::ignore(signal);
    }
    escape("600")?;
    std::thread::sleep(Duration::from_secs(600));
    Ok(())
}

/// Makes processes as fast as it can, for as long as any of them lives.
pub(crate) fn bomb() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(None)?;
    println!("started");
    io::stdout().flush()?;
    loop {
        // Parents don't wait, and children are parents.
        machine::ignore(libc::SIGCHLD);
        if machine::fork() < 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Kills a process.
pub(crate) fn signal(pid: &str) -> io::Result<()> {
    let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("not a process"))?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}
