//! What it costs to start a command and to know that it has ended, with nothing to do in between.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command as Process;

use drover_sandbox::{
    Access, Addresses, Below, Cgroup, Command, Content, Exit, Handle, Handles, Identity, Ids,
    Isolation, Launcher, LauncherProgram, Leftovers, Machine, Mount, Namespaces, Network, Owner,
    Personality, Plan, Program, Root, Scope, Source, SyscallFilter, Target, TmpfsSize,
    UserNamespace,
};
use rustix::fs::{Mode, OFlags};

fn main() {
    divan::main();
}

/// A program without libraries that does nothing.
const SHELL: &str = "/bin/busybox";
const USER: Ids = Ids { uid: 1_999_999, gid: 1_999_999 };

/// The floor: a new process with a program, from this one.
#[divan::bench]
fn a_process_alone(bencher: divan::Bencher<'_, '_>) {
    bencher.bench_local(|| Process::new(SHELL).arg("true").status().unwrap());
}

#[divan::bench]
fn without_namespaces(bencher: divan::Bencher<'_, '_>) {
    run(bencher, |_| Isolation::None);
}

#[divan::bench]
fn with_the_machines_network(bencher: divan::Bencher<'_, '_>) {
    run(bencher, |handles| namespaces(handles, 8, Network::Host));
}

/// With this many folders shown, as a build has inputs.
#[divan::bench(args = [8, 100, 400])]
fn sandboxed(bencher: divan::Bencher<'_, '_>, inputs: usize) {
    run(bencher, |handles| namespaces(handles, inputs, Network::Private));
}

fn run(bencher: divan::Bencher<'_, '_>, isolation: impl Fn(&mut Handles) -> Isolation) {
    assert!(rustix::process::geteuid().is_root(), "this takes root");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let program = LauncherProgram {
        program: env!("CARGO_BIN_EXE_drover-sandbox-probe").into(),
        arguments: vec!["launcher".into()],
    };
    let launcher = runtime.block_on(async { Launcher::start(&program).unwrap() });
    let mut handles = Handles::new();
    let isolation = isolation(&mut handles);
    let null = rustix::fs::open("/dev/null", OFlags::WRONLY, Mode::empty()).unwrap();
    let output = handles.add(null);
    let plan = plan(output, isolation);
    bencher.bench_local(|| {
        runtime.block_on(async {
            let mut running = launcher.spawn(&plan, &handles).await.unwrap();
            assert_eq!(running.wait().await.unwrap().exit, Exit::Code(0));
        });
    });
}

fn plan(output: Handle, isolation: Isolation) -> Plan {
    Plan {
        command: Command {
            program: Program::File(SHELL.into()),
            arguments: vec![b"busybox".to_vec(), b"true".to_vec()],
            environment: vec![(b"HOME".to_vec(), b"/nowhere".to_vec())],
            folder: b"/tmp".to_vec(),
            output,
            umask: 0o022,
        },
        identity: Identity::User(USER),
        groups: vec![],
        isolation,
        filter: SyscallFilter::Builds,
        scope: Scope::WhereSupported,
        cgroup: Cgroup::Inherited,
        limits: vec![],
        personality: Personality { machine: Machine::Native, addresses: Addresses::Fixed },
        oom_score: None,
        leftovers: Leftovers::Kill,
    }
}

fn namespaces(handles: &mut Handles, inputs: usize, network: Network) -> Isolation {
    let store = std::env::temp_dir().join(format!("drover-bench-{}", std::process::id()));
    let (mut recurring, mut mounts) = (Vec::new(), Vec::new());
    let put = |at: String, what| Mount { at: Target::new(at).unwrap(), what };
    for input in 0..inputs {
        std::fs::create_dir_all(store.join(format!("input-{input}"))).unwrap();
    }
    for device in ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/full"] {
        let source = Source::Open(handles.add(open(Path::new(device))));
        recurring.push(put(device.to_owned(), Content::Device(source)));
    }
    let memory =
        || Content::Tmpfs { size: TmpfsSize::Percent(50), mode: 0o1777, owner: Owner::Root };
    recurring.push(put("/proc".to_owned(), Content::Proc));
    recurring.push(put("/dev/pts".to_owned(), Content::Terminals));
    recurring.push(put("/dev/shm".to_owned(), memory()));
    let folder = handles.add(open(&store));
    for input in 0..inputs {
        let path = Below::new(format!("input-{input}")).unwrap();
        let source = Source::In { folder, path };
        let what = Content::Bind { source, access: Access::ReadOnly };
        mounts.push(put(format!("/store/input-{input}"), what));
    }
    let shell = Source::Open(handles.add(open(Path::new(SHELL))));
    let what = Content::Bind { source: shell, access: Access::ReadOnly };
    mounts.push(put(SHELL.to_owned(), what));
    mounts.push(put("/tmp".to_owned(), Content::Folder { mode: 0o1777, owner: Owner::Root }));
    Isolation::Namespaces(Box::new(Namespaces {
        users: UserNamespace::Private { appears_as: Ids { uid: 1000, gid: 100 } },
        network,
        root: Root::Tmpfs { size: 1 << 20 },
        root_access: Access::ReadWrite,
        recurring,
        mounts,
        hostname: b"localhost".to_vec(),
        domainname: b"(none)".to_vec(),
    }))
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}
