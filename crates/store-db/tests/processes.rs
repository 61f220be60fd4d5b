//! Several processes write to one database at the same time.

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::{create, info, path};

const FOLDER: &str = "STORE_DB_TEST_FOLDER";
const NAME: &str = "STORE_DB_TEST_NAME";
const PATHS: usize = 150;

/// Registers paths, each referring to the one before, and invalidates every third. Alone, or as one
/// of the processes of the next test.
#[test]
fn writes_many() {
    let own = tempfile::tempdir().expect("a folder");
    let folder = std::env::var_os(FOLDER).map_or_else(|| own.path().to_owned(), PathBuf::from);
    let name = std::env::var(NAME).unwrap_or_else(|_| "alone".to_owned());
    let mut database = create(&folder);
    let common = info("common", &[]);
    for at in 0..PATHS {
        let one = info(&format!("{name}-{at}"), &[&common.path]);
        // together, as another process may take the common path away in between
        database.register(&[common.clone().into(), one.clone().into()]).expect("registered");
        if at % 3 == 0 {
            database.invalidate(&[one.path]).expect("invalidated");
        }
        assert!(database.invalidate(std::slice::from_ref(&common.path)).is_err() || at == 0);
        database.register(&[common.clone().into()]).expect("the common path");
    }
    let left = database.all_paths().expect("all");
    let own = left.iter().filter(|path| path.name().starts_with(&format!("{name}-"))).count();
    assert_eq!(own, PATHS - PATHS.div_ceil(3));
}

#[test]
fn processes_keep_out_of_each_others_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = std::env::current_exe().expect("this program");
    let mut children: Vec<_> = (0..3)
        .map(|at| {
            Command::new(&program)
                .args(["--exact", "writes_many", "--nocapture"])
                .env(FOLDER, folder.path())
                .env(NAME, format!("process{at}"))
                .spawn()
                .expect("a process")
        })
        .collect();
    for child in &mut children {
        assert!(child.wait().expect("its end").success());
    }
    let database = create(folder.path());
    let all = database.all_paths().expect("all");
    assert_eq!(all.len(), 1 + 3 * (PATHS - PATHS.div_ceil(3)));
    assert!(all.contains(&path("common")));
    let referrers = database.referrers(&path("common")).expect("referrers");
    assert_eq!(referrers.len(), all.len() - 1);
}

/// A process that opens a database twice keeps its locks: otherwise the next one that closes it takes the log
/// away, and what is registered here after that is lost.
#[test]
fn opening_twice_gives_no_locks_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = create(folder.path());
    drop(create(folder.path()));
    first.register(&[info("before", &[]).into()]).expect("registered");
    let visitor = |question: &str| {
        let mut command = Command::new("sqlite3");
        let output = command.arg(folder.path().join("db.sqlite")).arg(question).output();
        let output = output.expect("sqlite3 (Debian: apt install sqlite3)");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    };
    let count = "select count(*) from ValidPaths";
    assert_eq!(visitor(count), "1");
    assert!(folder.path().join("db.sqlite-wal").exists(), "the log went with a visitor");
    first.register(&[info("after", &[]).into()]).expect("registered");
    assert_eq!(visitor(count), "2");
}
