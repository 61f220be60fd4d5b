//! The clients of the Nix that is installed, on a daemon over a store in memory: at its socket, and by
//! both protocols that go through `ssh`.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use drover_daemon::{ClientTrust, Limits, Listener, Policy, ServeServer, TrustRule, WriteAccess};
use support::sockets::{Silent, serve_at};
use support::{World, world_with};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::task::JoinSet;

/// A daemon, and how to reach it.
struct Daemon {
    folder: TempDir,
    world: World,
    _serving: JoinSet<()>,
}

const RULE: TrustRule = TrustRule::Forced(ClientTrust::Trusted);

impl Daemon {
    fn start(rule: TrustRule, policy: Policy) -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        let world = world_with(Limits::default(), policy);
        let mut serving = JoinSet::new();
        let listener = Listener::bind(&folder.path().join("socket")).unwrap();
        serving.spawn(listener.run(world.server.clone(), rule, std::future::pending()));
        let server = ServeServer::new(&world.server, WriteAccess::Allowed, Arc::new(Silent));
        let socket = folder.path().join("serve");
        serving.spawn(async move { serve_at(&socket, server).await });
        let daemon = Daemon { folder, world, _serving: serving };
        for name in ["socket", "serve"] {
            daemon.write_shim(name);
        }
        daemon
    }

    /// A program that stands for `nix-daemon --stdio` or `nix-store --serve`.
    fn write_shim(&self, name: &str) {
        let relay = std::env::current_exe().unwrap();
        let relay = relay.parent().unwrap().parent().unwrap().join("examples/relay");
        assert!(relay.exists(), "{} is built along with the tests", relay.display());
        let path = self.path(&format!("{name}.sh"));
        let socket = self.path(name);
        let script = format!("#!/bin/sh\nexec {} {}\n", relay.display(), socket.display());
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn unix(&self) -> String {
        format!("unix://{}", self.path("socket").display())
    }

    fn ssh_ng(&self) -> String {
        format!("ssh-ng://localhost?remote-program={}", self.path("socket.sh").display())
    }

    fn ssh(&self) -> String {
        format!("ssh://localhost?remote-program={}", self.path("serve.sh").display())
    }

    fn command(&self, store: &str, line: &[&str]) -> Command {
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).env("NIX_REMOTE", store).env("HOME", self.folder.path());
        command.env("NIX_CONF_DIR", self.folder.path()).env_remove("NIX_PATH");
        let config = "experimental-features = nix-command\nsubstituters =\nsandbox = false";
        command.env("NIX_CONFIG", config).kill_on_drop(true);
        command
    }

    async fn run(&self, store: &str, line: &[&str]) -> Output {
        self.command(store, line).output().await.unwrap()
    }

    /// What a command prints that goes well.
    async fn says(&self, store: &str, line: &[&str]) -> String {
        let output = self.run(store, line).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line:?} at {store}: {stderr}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// What a command complains of.
    async fn complains(&self, store: &str, line: &[&str]) -> String {
        let output = self.run(store, line).await;
        assert!(!output.status.success(), "{line:?} went well");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn file(&self, name: &str, contents: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn daemon() -> Daemon {
    Daemon::start(RULE, Policy::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn adds_and_queries() {
    let daemon = daemon();
    let file = daemon.file("hello.txt", "hello\n");
    for store in [daemon.unix(), daemon.ssh_ng()] {
        let path = daemon.says(&store, &["nix-store", "--add", &file]).await;
        assert!(path.starts_with("/nix/store/") && path.ends_with("-hello.txt"), "{path}");
        let hash = daemon.says(&store, &["nix-store", "-q", "--hash", &path]).await;
        assert_eq!(
            format!("{hash}\n"),
            daemon
                .says(&store, &["nix-hash", "--type", "sha256", "--base32", &file])
                .await
                .replacen("", "sha256:", 1)
                + "\n"
        );
        assert_eq!(daemon.says(&store, &["nix-store", "-q", "--size", &path]).await, "120");
        let fixed = ["nix-store", "--add-fixed", "sha256", &file];
        let flat = daemon.says(&store, &fixed).await;
        assert_ne!(flat, path);
        assert_eq!(
            daemon.says(&store, &["nix-store", "--query", "--requisites", &flat]).await,
            flat
        );
        assert_eq!(daemon.says(&store, &["nix-store", "-q", "--references", &path]).await, "");
        let absent = "/nix/store/00000000000000000000000000000000-absent";
        let error = daemon.complains(&store, &["nix-store", "-q", "--references", absent]).await;
        assert!(error.contains(&format!("path '{absent}' is not valid")), "{error}");
        let valid = ["nix-store", "--check-validity", "--print-invalid", &path, absent];
        assert_eq!(daemon.says(&store, &valid).await, absent);
    }
}

/// A derivation that the scripted builder builds, and one that needs it.
const EXPRESSION: &str = r#"
  let thing = name: more: derivation ({ inherit name; system = "x86_64-linux"; builder = "/bin/sh"; } // more);
  in thing "top" { text = "top"; needs = thing "dep" { text = "dep"; }; }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn instantiates_and_builds() {
    let daemon = daemon();
    // at a socket the client looks for the files of the store itself once they are built
    let drv = daemon.says(&daemon.unix(), &["nix-instantiate", "-E", EXPRESSION]).await;
    let realise = ["nix-store", "--realise", drv.lines().last().unwrap()];
    let told = daemon.complains(&daemon.unix(), &realise).await;
    assert!(told.contains("-top.drv' on 'ssh://b1'..."), "{told}");
    assert!(told.contains("hello from b1"), "{told}");
    assert!(told.contains("-top.drv': No such file or directory"), "{told}");
    for store in [daemon.ssh_ng()] {
        let drv = daemon.says(&store, &["nix-instantiate", "-E", EXPRESSION]).await;
        let drv = drv.lines().last().unwrap().to_owned();
        let all = daemon.says(&store, &["nix-store", "-q", "--requisites", &drv]).await;
        assert_eq!(all.lines().count(), 2, "{all}");
        let output = daemon.run(&store, &["nix-store", "--realise", &drv]).await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        assert!(told.contains(&format!("building '{drv}' on 'ssh://b1'...")), "{told}");
        let out = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(out.ends_with("-top"), "{out}");
        assert_eq!(daemon.says(&store, &["nix-store", "-q", "--outputs", &drv]).await, out);
        assert_eq!(daemon.says(&store, &["nix-store", "-q", "--deriver", &out]).await, drv);
        let shown = daemon.run(&store, &["nix", "build", "--no-link", "-L", "--json", &drv]).await;
        assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
        let bad = EXPRESSION.replace("text = \"top\"", "fail = \"1\"");
        let error = daemon.complains(&store, &["nix-build", "--no-out-link", "-E", &bad]).await;
        assert!(error.contains("failed with exit code 1"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_both_ways_by_both_protocols() {
    let (from, to) = (daemon(), daemon());
    let drv = from.says(&from.unix(), &["nix-instantiate", "-E", EXPRESSION]).await;
    let drv = drv.lines().last().unwrap().to_owned();
    let cache = format!("file://{}?compression=none", from.path("cache").display());
    let copied = ["nix", "copy", "--derivation", "--from", &from.ssh_ng(), "--to", &cache, &drv];
    from.says("dummy://", &copied).await;
    for target in [to.ssh_ng(), to.ssh(), to.unix()] {
        to.world.keeper.state().paths.clear();
        let copy = [
            "nix",
            "copy",
            "--derivation",
            "--no-check-sigs",
            "--from",
            &cache,
            "--to",
            &target,
            &drv,
        ];
        to.says("dummy://", &copy).await;
        let all = to.says(&to.unix(), &["nix-store", "-q", "--requisites", &drv]).await;
        assert_eq!(all.lines().count(), 2, "{target}");
        for (path, (_, nar)) in &from.world.keeper.state().paths {
            assert_eq!(&to.world.keeper.state().paths[path].1, nar, "{path} {target}");
        }
    }
    // and straight from one to the other
    to.world.keeper.state().paths.clear();
    let built = from.says(&from.ssh_ng(), &["nix-build", "--no-out-link", "-E", EXPRESSION]).await;
    for (source, target) in [(from.ssh(), to.ssh_ng()), (from.ssh_ng(), to.ssh())] {
        to.world.keeper.state().paths.clear();
        let copy = ["nix", "copy", "--no-check-sigs", "--from", &source, "--to", &target, &built];
        to.says("dummy://", &copy).await;
        assert_eq!(to.world.keeper.state().paths.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_and_imports() {
    let (from, to) = (daemon(), daemon());
    let drv = from.says(&from.unix(), &["nix-instantiate", "-E", EXPRESSION]).await;
    let drv = drv.lines().last().unwrap().to_owned();
    let all = from.says(&from.unix(), &["nix-store", "-q", "--requisites", &drv]).await;
    let mut export = vec!["nix-store", "--export"];
    export.extend(all.lines());
    // at a socket the client would look for the files itself
    let exported = from.run(&from.ssh_ng(), &export).await;
    assert!(exported.status.success() && exported.stdout.len() > 500);
    let mut import = to.command(&to.unix(), &["nix-store", "--import"]);
    import.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut import = import.spawn().unwrap();
    let mut stdin = import.stdin.take().unwrap();
    stdin.write_all(&exported.stdout).await.unwrap();
    drop(stdin);
    let imported = import.wait_with_output().await.unwrap();
    assert!(imported.status.success());
    assert_eq!(String::from_utf8_lossy(&imported.stdout).lines().count(), 2);
    assert_eq!(to.world.keeper.state().paths.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_signs_verifies_and_collects() {
    let daemon = daemon();
    let unix = daemon.unix();
    let file = daemon.file("hello.txt", "hello\n");
    let path = daemon.says(&unix, &["nix-store", "--add", &file]).await;
    for store in [daemon.unix(), daemon.ssh_ng(), daemon.ssh()] {
        daemon.says("dummy://", &["nix", "store", "ping", "--store", &store]).await;
    }
    let (key, public) = (daemon.path("key"), daemon.path("public"));
    let (key, public) = (key.to_str().unwrap(), public.to_str().unwrap());
    daemon.says(&unix, &["nix-store", "--generate-binary-cache-key", "test-1", key, public]).await;
    daemon.says(&unix, &["nix", "store", "sign", "-k", key, &path]).await;
    let shown = daemon.says(&unix, &["nix", "path-info", "--sigs", &path]).await;
    assert!(shown.contains("test-1:"), "{shown}");
    let error = daemon.complains(&unix, &["nix-store", "--verify", "--check-contents"]).await;
    assert!(error.contains("path '/nix/store/x' was modified!"), "{error}");
    daemon.says(&unix, &["nix-store", "--optimise"]).await;
    let link = daemon.path("result");
    let link = link.to_str().unwrap();
    daemon.says(&unix, &["nix-store", "-r", &path, "--add-root", link, "--indirect"]).await;
    let roots = daemon.says(&unix, &["nix-store", "--gc", "--print-roots"]).await;
    assert!(roots.contains(&format!("{link} -> {path}")), "{roots}");
    assert_eq!(daemon.says(&unix, &["nix-store", "--gc", "--print-live"]).await, path);
    let error = daemon.complains(&unix, &["nix-store", "--delete", &path]).await;
    assert!(error.contains("still alive"), "{error}");
    std::fs::remove_file(link).unwrap();
    assert_eq!(daemon.says(&unix, &["nix-store", "--gc", "--print-dead"]).await, path);
    let deleted = daemon.run(&unix, &["nix-store", "--gc"]).await;
    assert!(String::from_utf8_lossy(&deleted.stdout).contains("1 store paths deleted"));
    assert!(daemon.world.keeper.state().paths.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_trusted_is_told_so() {
    let daemon = Daemon::start(TrustRule::Forced(ClientTrust::NotTrusted), Policy::default());
    let drv = daemon.says(&daemon.unix(), &["nix-instantiate", "-E", EXPRESSION]).await;
    let drv = drv.lines().last().unwrap();
    let build = ["nix-store", "-r", drv, "--option", "post-build-hook", "/bin/false"];
    let told = daemon.complains(&daemon.unix(), &build).await;
    assert!(told.contains("-top.drv': No such file or directory"), "{told}");
    let expected = "warning: ignoring the client-specified setting 'post-build-hook', because it is a restricted setting and you are not a trusted user";
    assert!(told.contains(expected), "{told}");
    let other = self::daemon();
    let file = other.file("x", "x");
    let path = other.says(&other.unix(), &["nix-store", "--add", &file]).await;
    // content-addressed paths need nobody's word
    let (from, to) = (other.ssh_ng(), daemon.ssh_ng());
    let copy = ["nix", "copy", "--no-check-sigs", "--from", &from, "--to", &to, &path];
    daemon.says("dummy://", &copy).await;
    let expression = EXPRESSION.replace("\"top\"", "\"other\"");
    let line = ["nix-build", "--no-out-link", "-E", &expression];
    let built = other.says(&other.ssh_ng(), &line).await;
    let copy = ["nix", "copy", "--no-check-sigs", "--from", &from, "--to", &to, &built];
    let error = daemon.complains("dummy://", &copy).await;
    assert!(error.contains("because it lacks a signature by a trusted key"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_allowed_hears_it_in_nix_s_words() {
    let policy =
        Policy { trusted_users: Vec::new(), allowed_users: Vec::new(), ..Policy::default() };
    let daemon = Daemon::start(TrustRule::ByPolicy, policy);
    let error = daemon.complains(&daemon.unix(), &["nix-store", "--gc", "--print-roots"]).await;
    assert!(error.contains("is not allowed to connect to the Nix daemon"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_takes_its_build_along() {
    let daemon = daemon();
    let expression = EXPRESSION.replace("text = \"top\"", "hang = \"1\"");
    let line = ["nix-build", "--no-out-link", "-E", &expression];
    let mut build = daemon.command(&daemon.unix(), &line).spawn().unwrap();
    let running = &daemon.world.realiser.running;
    let load = || running.load(std::sync::atomic::Ordering::SeqCst);
    while load() == 0 {
        tokio::task::yield_now().await;
    }
    build.kill().await.unwrap();
    while load() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(Path::new(&daemon.path("socket")).exists());
}
