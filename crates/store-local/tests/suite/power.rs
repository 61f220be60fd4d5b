//! T01, T02: the power goes while paths are added, replaced and collected, and while what builds have made is
//! registered.
//!
//! Each store is on a file system of its own, an ext4 in a file, in a private mount namespace. To
//! ext4, `FS_IOC_SHUTDOWN` without a flush of its log is a power cut: what is on the disk by then is
//! all that there is at the next mount. Takes root and loop devices. `DROVER_POWER_CUTS` says how
//! often the power goes in each test.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::hash::{BuildHasher as _, Hasher as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use drover_core::{Hash, HashAlgorithm, NarHash, NarSize, PathInfo, StorePath};
use drover_nar::{Executable, Writer};
use drover_store::contract::{Given, flat_file};
use drover_store::{
    CollectAction, Collection, Keeper, Liveness, Repair, SignatureCheck, Store, VerifyDepth,
    WhenValid,
};
use drover_store_local::{
    Access, ContentSync, Layout, LocalOptions, LocalStore, Optimise, Product,
};

const NAMESPACE: &str = "STORE_LOCAL_POWER_NAMESPACE";
const HOME: &str = "STORE_LOCAL_POWER_HOME";
const WORK: &str = "STORE_LOCAL_POWER_WORK";
const SYNC: &str = "STORE_LOCAL_POWER_SYNC";

/// How often the power goes, unless more is asked for.
const CUTS: u32 = 10;

/// The longest time until it goes.
const LONGEST: u64 = 250;

fn cuts() -> u32 {
    std::env::var("DROVER_POWER_CUTS").map_or(CUTS, |text| text.parse().expect("a number"))
}

/// A number that nobody can foresee.
fn random(below: u64) -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish() % below
}

#[test]
fn while_paths_are_added() {
    println!("{}", in_a_namespace("power::while_paths_are_added", || survives("add")));
}

#[test]
fn while_paths_are_replaced() {
    println!("{}", in_a_namespace("power::while_paths_are_replaced", || survives("replace")));
}

/// No output of a build is there without the others.
#[test]
fn while_outputs_of_builds_are_registered() {
    let test = "power::while_outputs_of_builds_are_registered";
    println!("{}", in_a_namespace(test, || survives("build")));
}

#[test]
fn while_garbage_is_collected() {
    println!("{}", in_a_namespace("power::while_garbage_is_collected", || survives("collect")));
}

/// What shows that the others test anything.
#[test]
fn a_store_that_does_not_sync_is_damaged() {
    const TRIES: u32 = 20;
    let said = in_a_namespace("power::a_store_that_does_not_sync_is_damaged", || {
        for tries in 1..=TRIES {
            let disk = Disk::new();
            work_until_the_power_goes(&disk, "add", ContentSync::Off);
            let damage = disk.damage();
            disk.unmount();
            if !damage.is_empty() {
                return format!("after {tries} power cuts: {damage:?}");
            }
        }
        panic!("{TRIES} power cuts did no damage: these tests would not see any");
    });
    println!("{said}");
}

/// Cuts the power again and again; each time what is valid is whole, and what had a root is valid.
fn survives(work: &str) -> String {
    let disk = Disk::new();
    let mut rooted = BTreeSet::new();
    let mut most = 0;
    for cut in 1..=cuts() {
        work_until_the_power_goes(&disk, work, ContentSync::Full);
        assert_eq!(disk.damage(), Vec::<String>::new(), "power cut {cut}");
        let (valid, roots) = disk.valid_and_roots();
        assert_eq!(halves(&valid), Vec::<&StorePath>::new(), "power cut {cut}");
        let lost: Vec<&StorePath> = rooted.difference(&valid).collect();
        assert!(lost.is_empty(), "power cut {cut}: {lost:?} had roots and are gone");
        most = most.max(valid.len());
        rooted = roots.intersection(&valid).cloned().collect();
    }
    disk.unmount();
    assert!(1 < most, "nothing outlasted any of the power cuts");
    format!("{most} paths at the most, {} with roots at the end", rooted.len())
}

fn work_until_the_power_goes(disk: &Disk, work: &str, sync: ContentSync) {
    let mut worker = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "power::works", "--nocapture"])
        .env(HOME, &disk.mounted)
        .env(WORK, work)
        .env(SYNC, format!("{sync:?}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process");
    wait_for_first_path(&mut worker);
    std::thread::sleep(Duration::from_millis(random(LONGEST)));
    disk.cut_power();
    worker.kill().expect("killed");
    worker.wait().expect("its end");
    disk.unmount();
    disk.mount();
}

fn wait_for_first_path(worker: &mut Child) {
    let lines = std::io::BufReader::new(worker.stdout.as_mut().expect("a pipe"));
    let mut lines = std::io::BufRead::lines(lines).map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("works")), "the worker has ended");
}

/// Runs a test by itself in a mount namespace of its own, which takes what it mounts with it.
fn in_a_namespace(test: &str, run: impl FnOnce() -> String) -> String {
    if std::env::var_os(NAMESPACE).is_some() {
        return run();
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(NAMESPACE, "1")
        .output()
        .expect("unshare");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// An ext4 in a file, and where it is mounted.
struct Disk {
    folder: tempfile::TempDir,
    mounted: PathBuf,
}

fn run(program: &str, arguments: &[&OsStr]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}

impl Disk {
    fn new() -> Disk {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = folder.path().canonicalize().expect("a path").join("mounted");
        std::fs::create_dir(&mounted).expect("a folder");
        let disk = Disk { folder, mounted };
        let image = std::fs::File::create(disk.image()).expect("a file");
        image.set_len(128 << 20).expect("its size");
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), disk.image().as_ref()]).expect("made");
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount(&self) {
        let arguments = ["-o".as_ref(), "loop".as_ref()];
        let places = [self.image(), self.mounted.clone()];
        let places = places.iter().map(|path| path.as_os_str());
        let arguments: Vec<&OsStr> = arguments.into_iter().chain(places).collect();
        let mut tries = 0;
        while let Err(error) = run("mount", &arguments) {
            tries += 1;
            assert!(tries < 20, "the tests of power cuts take root and loop devices: {error}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn unmount(&self) {
        let mut tries = 0;
        while let Err(error) = run("umount", &[self.mounted.as_ref()]) {
            tries += 1;
            assert!(tries < 100, "{error}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `FS_IOC_SHUTDOWN`, which Rust would only call in an unsafe block.
    fn cut_power(&self) {
        const SCRIPT: &str = "open(my $dir, '<', $ARGV[0]) or die qq(open: $!);
            my $without_flush = pack('I', 2);
            defined(ioctl($dir, 0x8004587d, $without_flush)) or die qq(ioctl: $!);";
        run("perl", &["-e".as_ref(), SCRIPT.as_ref(), self.mounted.as_ref()]).expect("cut");
    }

    fn store(&self) -> LocalStore {
        store(&self.mounted, LocalOptions { reserved: 1 << 20, ..LocalOptions::default() })
    }

    /// Returns all that is wrong but files which nobody registered, and names in the pool of hard
    /// links, of which nobody uses one that has another size.
    fn damage(&self) -> Vec<String> {
        block_on(async {
            let store = self.store();
            let found = store.verify(VerifyDepth::Contents, Repair::No).await.expect("verified");
            let harmless = |problem: &String| {
                problem.ends_with("is in the store but not valid") || problem.starts_with("link '")
            };
            let damage: Vec<String> =
                found.problems.into_iter().filter(|problem| !harmless(problem)).collect();
            // The store takes more.
            let after = flat_file(&format!("after-{}", random(u64::MAX)), b"after", &[]);
            store.import(Given::boxed([after])).await.expect("added");
            damage
        })
    }

    fn valid_and_roots(&self) -> (BTreeSet<StorePath>, BTreeSet<StorePath>) {
        block_on(async {
            let store = self.store();
            let valid = store.all_valid().await.expect("all");
            let roots = store.roots().await.expect("roots");
            (valid, roots.into_iter().map(|(_, path)| path).collect())
        })
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(work)
}

fn store(home: &Path, options: LocalOptions) -> LocalStore {
    let real = home.join("store");
    let layout = Layout {
        name: "local".to_owned(),
        store_dir: real.to_str().expect("text").parse().expect("a store directory"),
        real,
        state: home.join("state"),
        log: home.join("log"),
        access: Access::ReadWrite,
    };
    LocalStore::new(layout, options)
}

/// Works on a store: for a while, or as the process under which the power goes.
#[test]
fn works() {
    let Some(home) = std::env::var_os(HOME) else {
        let home = tempfile::tempdir().expect("a folder");
        let home = home.path().canonicalize().expect("a path");
        for work in ["add", "replace", "build", "collect"] {
            block_on(work_on(&home, work, ContentSync::Full, 3));
        }
        return;
    };
    let sync = match std::env::var(SYNC).as_deref() {
        Ok("Full") => ContentSync::Full,
        _ => ContentSync::Off,
    };
    block_on(work_on(Path::new(&home), &std::env::var(WORK).expect("work"), sync, u32::MAX));
}

/// Adds, replaces or collects, while somebody else has the database written to the disk.
async fn work_on(home: &Path, work: &str, contents: ContentSync, rounds: u32) {
    let optimise = match random(2) {
        0 => Optimise::OnDemand,
        _ => Optimise::OnImport,
    };
    let options = LocalOptions { contents, optimise, reserved: 1 << 20, ..LocalOptions::default() };
    let store = Arc::new(store(home, options));
    let links = home.join("links");
    std::fs::create_dir_all(&links).expect("a folder");
    add(&store, tree(0), WhenValid::Keep).await;
    std::io::Write::write_all(&mut std::io::stdout(), b"works\n").expect("said");
    let first = random(1 << 40);
    let adding = async {
        for round in 0..rounds {
            if work == "build" {
                drop(build(&store, first + u64::from(round)).await);
                continue;
            }
            // Few files and many are synced in different ways.
            let trees: Vec<_> = match work {
                "replace" => vec![tree(u64::from(round) % 5)],
                _ => (0..1 + random(4)).map(|at| tree(first + u64::from(round) * 8 + at)).collect(),
            };
            for (info, nar) in trees {
                let when_valid = match work {
                    "replace" => WhenValid::Replace,
                    _ => WhenValid::Keep,
                };
                let path = info.path.clone();
                let session = add(&store, (info, nar), when_valid).await;
                if work == "collect" && round % 4 == 0 {
                    let link = links.join(path.base_name());
                    let link = link.to_str().expect("text");
                    session.add_permanent_root(&path, link).await.expect("a root");
                }
            }
        }
    };
    let collecting = async {
        for round in 0..rounds {
            let garbage = flat_file(&format!("garbage-{first}-{round}"), b"garbage", &[]);
            let path = garbage.0.path.clone();
            drop(add(&store, garbage, WhenValid::Keep).await);
            let (action, paths) = match work {
                "collect" => (CollectAction::DeleteDead, BTreeSet::new()),
                _ => (CollectAction::DeleteGiven, BTreeSet::from([path])),
            };
            let (liveness, max_freed) = (Liveness::Respect, None);
            let collection = Collection { action, liveness, paths, max_freed };
            store.collect(collection).await.expect("collected");
        }
    };
    tokio::join!(adding, collecting);
}

/// Adds a path; it has a temporary root as long as the session lives.
async fn add(
    store: &Arc<LocalStore>,
    path: (PathInfo, Bytes),
    when_valid: WhenValid,
) -> Arc<dyn Keeper> {
    let session = store.clone().session().await.expect("a session");
    let paths = Given::boxed([path]);
    session.add_paths(paths, SignatureCheck::Skip, when_valid).await.expect("added");
    session
}

/// What the second output of a build is called, after the first one's name.
const DEV: &str = "-dev";

/// Registers two outputs of a build, of which one refers to the other. They have temporary roots as long as the
/// session lives.
async fn build(store: &Arc<LocalStore>, number: u64) -> Arc<dyn Keeper> {
    let session = store.clone().session().await.expect("a session");
    let texts = [format!("{number} ").repeat(9000), format!("{number}")];
    let [out, dev] = texts;
    let (dev_info, _) = flat_file(&format!("built-{number}{DEV}"), dev.as_bytes(), &[]);
    let (out_info, _) = flat_file(&format!("built-{number}"), out.as_bytes(), &[&dev_info]);
    let paths = BTreeSet::from([dev_info.path.clone(), out_info.path.clone()]);
    let locks = store.lock_outputs(paths).await.expect("locked");
    let workshop = store.workshop().await.expect("a folder");
    let folder = PathBuf::from(format!("/proc/self/fd/{}", workshop.folder().as_raw_fd()));
    let make = |(mut info, text): (PathInfo, String)| {
        info.ultimate = true;
        let entry = info.path.name().to_owned();
        std::fs::write(folder.join(&entry), text).expect("written");
        Product { info, entry }
    };
    let products = [(out_info, out), (dev_info, dev)].map(make);
    let locked = store.lock_products(locks, products.into()).await.expect("locked");
    let registering = store.register_outputs(&workshop, locked, Vec::new(), WhenValid::Keep);
    registering.await.expect("registered");
    session
}

/// Returns what builds made that is there without what they made along with it.
fn halves(valid: &BTreeSet<StorePath>) -> Vec<&StorePath> {
    let names: BTreeSet<&str> = valid.iter().map(StorePath::name).collect();
    let is_half = |path: &&StorePath| {
        let other = match path.name().strip_suffix(DEV) {
            Some(out) => out.to_owned(),
            None => format!("{}{DEV}", path.name()),
        };
        path.name().starts_with("built-") && !names.contains(other.as_str())
    };
    valid.iter().filter(is_half).collect()
}

/// A path with one file, or with a directory of some, as its number has it.
fn tree(number: u64) -> (PathInfo, Bytes) {
    let files = match number % 4 {
        0 => 0,
        1 => 3,
        2 => 60,
        _ => 10,
    };
    let mut writer = Writer::new(Vec::new()).expect("written");
    let mut write = || {
        let contents = format!("{number} ").repeat(300);
        if files == 0 {
            writer.regular(Executable::No, contents.len() as u64)?;
            return writer.contents(contents.as_bytes());
        }
        writer.directory()?;
        for file in 0..files {
            writer.entry(format!("{file:02}").as_bytes())?;
            // Some are equal in all trees.
            let contents = if file % 3 == 0 { "equal ".repeat(100) } else { contents.clone() };
            writer.regular(Executable::No, contents.len() as u64)?;
            writer.contents(contents.as_bytes())?;
        }
        writer.directory_end()
    };
    write().expect("written");
    let nar = writer.finish().expect("whole");
    let (mut info, _) = flat_file(&format!("tree-{number}"), b"", &[]);
    let hash = Hash::of(HashAlgorithm::Sha256, &nar);
    info.nar_hash = NarHash(hash.digest().try_into().expect("32 bytes"));
    info.nar_size = NarSize(nar.len() as u64);
    (info, nar.into())
}
