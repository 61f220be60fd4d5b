//! Stock Nix, which hands its builds to drover: by a line of its machines file, or as its build hook.

use drover_testkit::{Fleet, Host, Signal, Suite};
use rstest::rstest;

use crate::connections::swallow_everything;
use crate::failures::until;
use crate::{LIMIT, assert_code, stderr};

/// A client whose Nix knows one machine only, drover, which knows two builders.
pub(crate) struct HookLab {
    _fleet: Fleet,
    pub(crate) client: Host,
    pub(crate) b1: Host,
    pub(crate) b2: Host,
    /// What `nix.conf` can't say to this Nix.
    options: &'static str,
}

/// Which Nix writes the client's store.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Users {
    Single,
    Multi,
}

/// How drover gets its builds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Line,
    BuildHook,
}

impl HookLab {
    pub(crate) fn new(name: &str, suite: Suite, users: Users, way: Way) -> HookLab {
        let fleet = Fleet::new(name).unwrap();
        let hosts = [("c", suite), ("b1", Suite::Forky), ("b2", Suite::Bookworm)];
        let [client, b1, b2] = fleet.hosts(hosts).unwrap();
        client.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
        let arch = std::env::consts::ARCH;
        let line = |host: &str| format!("ssh-ng://{host} {arch}-linux - 2 1 big-parallel\n");
        let lines = line("b1") + &line("b2");
        match way {
            Way::Line => {
                client.write("/etc/nix/drover-machines", lines).unwrap();
                client.sh("drover hook line > /etc/nix/machines").unwrap();
            }
            Way::BuildHook => {
                client.write("/etc/nix/machines", lines).unwrap();
                // older releases take a program without arguments
                let program = match suite {
                    Suite::Bookworm => "drover-build-hook",
                    _ => "drover hook",
                };
                let hook = format!(
                    "ln -s drover /usr/local/bin/drover-build-hook
                     echo 'build-hook = /usr/local/bin/{program}' >> /etc/nix/nix.conf"
                );
                client.sh(&hook).unwrap();
                client.restart_daemon().unwrap();
            }
        }
        match users {
            Users::Single => client.sh("pkill -x nix-daemon || :").unwrap(),
            Users::Multi => String::new(),
        };
        let options = match (suite, way) {
            // its default takes the place of what nix.conf says (https://github.com/NixOS/nix/pull/15083)
            (Suite::Trixie, Way::BuildHook) => "--option build-hook '/usr/local/bin/drover hook'",
            _ => "",
        };
        HookLab { _fleet: fleet, client, b1, b2, options }
    }

    fn line(&self, environment: &str, arguments: &str) -> String {
        format!("{environment} exec nix-store -r {arguments} {}", self.options)
    }

    /// Has Nix build, with this in front of its name.
    pub(crate) fn build(&self, environment: &str, arguments: &str) -> std::process::Output {
        let line = self.line(environment, arguments);
        self.client.run_within(LIMIT, &["sh", "-c", &line]).unwrap()
    }

    /// Has Nix build what it may build here, twice.
    fn builds_here(&self) {
        for n in ["4", "3"] {
            let drv = self.client.instantiate(&[("shape", "wide"), ("n", n)]).unwrap();
            assert_code(&self.build("NIX_REMOTE=daemon", &format!("{drv} -j2")), 0);
        }
    }

    /// Has Nix build what it may not build here and nobody else builds.
    fn refuses_to_build_here(&self) -> std::process::Output {
        let drv = self.client.instantiate(&[("shape", "wide"), ("n", "2")]).unwrap();
        let refused = self.build("NIX_REMOTE=daemon", &format!("{drv} -j0"));
        assert_code(&refused, 1);
        refused
    }
}

/// Returns what runs in a host whose command line has one of these words.
fn remains(host: &Host, words: &[&str]) -> Vec<String> {
    let lines = host.processes().into_iter().map(|(_, line)| line);
    lines.filter(|line| words.iter().any(|word| line.contains(word))).collect()
}

fn environment(users: Users) -> &'static str {
    match users {
        // as of one who has called sudo
        Users::Single => "NIX_REMOTE=local SUDO_USER=alice SSH_AUTH_SOCK=/nowhere",
        Users::Multi => "NIX_REMOTE=daemon",
    }
}

#[rstest]
#[case::nix_2_34(Suite::Forky, Users::Single)]
#[case::nix_2_34_daemon(Suite::Forky, Users::Multi)]
#[case::nix_2_26(Suite::Trixie, Users::Single)]
#[case::nix_2_26_daemon(Suite::Trixie, Users::Multi)]
#[case::nix_2_8(Suite::Bookworm, Users::Single)]
#[case::nix_2_8_daemon(Suite::Bookworm, Users::Multi)]
fn nix_hands_its_builds_over(
    #[case] suite: Suite,
    #[case] users: Users,
    #[values(Way::Line, Way::BuildHook)] way: Way,
) {
    let lab = HookLab::new("hook", suite, users, way);
    let graph = [("shape", "layers"), ("n", "8"), ("d", "2"), ("k", "2"), ("sleep", "1")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let built = lab.build(environment(users), &format!("{drv} -j0"));
    assert_code(&built, 0);
    lab.client.sh(&format!("nix-store --verify-path $(nix-store -q {drv})")).unwrap();
    lab.client.sh("nix-store --verify --check-contents 2>&1").unwrap();
    // what another machine has built wasn't built here, and so needs a signature where those are asked for
    let infos = "NIX_REMOTE=local nix --extra-experimental-features nix-command path-info --json";
    let infos = lab.client.sh(&format!("{infos} $(nix-store -qR $(nix-store -q {drv}))")).unwrap();
    assert!(!infos.replace(' ', "").contains("\"ultimate\":true"), "{infos}");
    if matches!(way, Way::BuildHook) {
        let told = stderr(&built);
        for words in [" on 'b1'", " on 'b2'", "copying path"] {
            assert!(told.contains(words), "{words:?} is not in {told}");
        }
    }
    let log = lab.client.sh(&format!("nix-store --read-log {drv}")).unwrap();
    assert!(log.contains("graph-layers ends"), "{log}");
    for builder in [&lab.b1, &lab.b2] {
        let count = builder.sh("ls -d /nix/store/*-node-?-? 2>/dev/null | wc -l").unwrap();
        assert!(count.trim() != "0", "a builder has built nothing: {}", stderr(&built));
    }
    // lest Nix has done it without drover
    assert_ne!(remains(&lab.client, &["drover hook daemon"]), Vec::<String>::new());
    let script = "tr '\\0' '\\n' < /proc/$(pgrep -of '[d]rover hook daemon')/environ";
    let daemons = lab.client.sh(script).unwrap();
    assert!(daemons.contains("PATH="), "{daemons}");
    for foreign in ["SUDO_USER", "SSH_AUTH_SOCK"] {
        assert!(!daemons.contains(foreign), "root's daemon has what a user has: {daemons}");
    }
}

/// The store of the Nix that asks is in no file and no variable: the daemon for hooks is told of it.
#[rstest]
#[case::nix_2_34(Suite::Forky)]
#[case::nix_2_26(Suite::Trixie)]
#[case::nix_2_8(Suite::Bookworm)]
fn a_store_of_the_command_line(#[case] suite: Suite) {
    let lab = HookLab::new("hook-store", suite, Users::Single, Way::BuildHook);
    let expression = "derivation { name = \"x\"; builder = \"/bin/sh\"; \
                      system = builtins.currentSystem; args = [ \"-c\" \"echo built > $out\" ]; }";
    lab.client.write("/root/x.nix", expression).unwrap();
    let store = "--store 'local?root=/root/other'";
    let drv = lab.client.sh(&format!("nix-instantiate {store} /root/x.nix 2>/dev/null")).unwrap();
    assert_code(&lab.build("", &format!("{store} -j0 {}", drv.trim())), 0);
    assert_eq!(lab.client.sh("cat /root/other/nix/store/*-x").unwrap().trim(), "built");
    let elsewhere = |host: &Host| host.sh("cat /nix/store/*-x 2>/dev/null || :").unwrap();
    let [here, b1, b2] = [&lab.client, &lab.b1, &lab.b2].map(elsewhere);
    assert_eq!((here.trim(), format!("{b1}{b2}").trim()), ("", "built"));
    // who asks for the same store finds its daemon
    let told = lab.client.sh(&format!("drover builds {store}")).unwrap();
    assert_eq!(told.trim(), "nothing is built");
}

/// The machines move behind drover, comments and all, and come back.
#[test]
fn is_installed_and_taken_out_again() {
    let lab = HookLab::new("hook-install", Suite::Forky, Users::Multi, Way::BuildHook);
    let (client, machines) = (&lab.client, "/etc/nix/machines");
    client.sh("sed -i /build-hook/d /etc/nix/nix.conf").unwrap();
    client.restart_daemon().unwrap();
    let before = "# ours\nssh-ng://b1 x86_64-linux - 2 1 big-parallel # near\n";
    client.write(machines, before).unwrap();
    let unasked = client.run(&["drover", "hook", "install"]).unwrap();
    assert_code(&unasked, 1);
    assert!(stderr(&unasked).contains("--yes"), "{}", stderr(&unasked));
    assert_eq!(client.read(machines).unwrap(), before.as_bytes());
    for words in ["listed there goes to", "the machine behind it: /etc/nix/drover-machines"] {
        let said = client.sh("drover hook install --yes 2>&1").unwrap();
        assert!(said.contains(words), "{said}");
        assert_eq!(client.read("/etc/nix/drover-machines").unwrap(), before.as_bytes());
        let lines = String::from_utf8(client.read(machines).unwrap()).unwrap();
        assert_eq!(lines.matches("ssh-ng://localhost").count(), 1, "{lines}");
    }
    let drv = client.instantiate(&[("shape", "wide"), ("n", "2")]).unwrap();
    assert_code(&lab.build("NIX_REMOTE=daemon", &format!("{drv} -j0")), 0);
    // drover itself takes the machines behind the line, not the line
    let drv = client.instantiate(&[("shape", "wide"), ("n", "3")]).unwrap();
    client.sh(&format!("drover build --no-link -j0 {drv} 2>&1")).unwrap();
    client.sh("drover hook uninstall --yes 2>&1").unwrap();
    assert_eq!(client.read(machines).unwrap(), before.as_bytes());
    assert!(client.read("/etc/nix/drover-machines").is_err());
    let again = client.run(&["drover", "hook", "uninstall", "--yes"]).unwrap();
    assert_code(&again, 1);
    assert!(stderr(&again).contains("does not lead to drover"), "{}", stderr(&again));
}

/// What is written down outlives an update: a path in the store goes with the next collection.
#[test]
fn lines_name_the_program_as_it_is_called() {
    let lab = HookLab::new("hook-named", Suite::Forky, Users::Single, Way::BuildHook);
    let client = &lab.client;
    let stored = "/nix/store/00000000000000000000000000000000-drover/bin/drover";
    let script = format!(
        "mkdir -p ${{0%/*}} /opt/profile; mv /usr/local/bin/drover {stored}
         ln -s {stored} /opt/profile/drover"
    )
    .replace("${0%/*}", stored.trim_end_matches("/drover"));
    client.sh(&script).unwrap();
    let line = |command: &str| client.sh(&format!("{command} 2>&1")).unwrap();
    for command in [
        "PATH=/opt/profile:$PATH drover",
        "cd /opt; ./profile/drover",
        &format!("PATH=/opt/profile:$PATH {stored}"),
    ] {
        let said = line(&format!("{command} hook line"));
        assert!(said.contains("remote-program=/opt/profile/drover%20hook"), "{command}: {said}");
    }
    let said = line(&format!("{stored} hook line"));
    assert!(said.contains(&format!("'{stored}' is in a store")), "{said}");
    line("PATH=/opt/profile:$PATH drover compat install /w/names");
    assert_eq!(line("readlink /w/names/nix-store").trim(), "/opt/profile/drover");
}

/// One that was ended between its two writes goes on when it is repeated; files needn't be UTF-8.
#[test]
fn is_installed_again_after_it_was_ended() {
    let lab = HookLab::new("hook-again", Suite::Forky, Users::Multi, Way::BuildHook);
    let client = &lab.client;
    let [machines, behind] = ["/etc/nix/machines", "/etc/nix/drover-machines"];
    let line = format!("ssh-ng://b1 {}-linux - 2 1 big-parallel # f", std::env::consts::ARCH);
    let before = [line.as_bytes(), b"\xfcr dich\n"].concat();
    client.write(machines, &before).unwrap();
    client.write(behind, &before).unwrap();
    client.sh("drover hook install --yes 2>&1").unwrap();
    assert_eq!(client.read(behind).unwrap(), before);
    let lines = String::from_utf8(client.read(machines).unwrap()).unwrap();
    assert_eq!(lines.matches("ssh-ng://localhost").count(), 1, "{lines}");
    client.write(machines, &before).unwrap();
    let unasked = client.run(&["drover", "hook", "uninstall"]).unwrap();
    assert_code(&unasked, 1);
    assert!(stderr(&unasked).contains("the latter goes"), "{}", stderr(&unasked));
    assert_eq!(client.read(behind).unwrap(), before);
    client.sh("drover hook uninstall --yes 2>&1").unwrap();
    assert_eq!(client.read(machines).unwrap(), before);
    assert!(client.read(behind).is_err());
    // a file without a machine is no list of machines, and what it says stays
    client.write(behind, "# none yet").unwrap();
    client.sh("drover hook install --yes 2>&1").unwrap();
    assert_eq!(client.read(behind).unwrap(), [b"# none yet\n", &before[..]].concat());
}

/// A user without root has his machines beside his own nix.conf.
#[test]
fn a_user_installs_it_for_himself() {
    let lab = HookLab::new("hook-user", Suite::Forky, Users::Multi, Way::BuildHook);
    let client = &lab.client;
    let folder = "/home/alice/.config/nix";
    let line = format!("ssh-ng://b1 {}-linux - 2\n", std::env::consts::ARCH);
    client.write(&format!("{folder}/machines"), &line).unwrap();
    client
        .write(&format!("{folder}/nix.conf"), format!("builders = @{folder}/machines\n"))
        .unwrap();
    let as_alice = "chown -R alice: /home/alice/.config; su alice -s /bin/sh -c";
    client.sh(&format!("{as_alice} 'drover hook install --yes' 2>&1")).unwrap();
    let behind = client.read(&format!("{folder}/drover-machines")).unwrap();
    assert_eq!(behind, line.as_bytes());
    let told = client.sh(&format!("{as_alice} 'drover hook line' 2>&1")).unwrap();
    assert!(told.contains("- 4 4 "), "{told}");
}

/// Builds that count how many run beside them, each noted where it is built.
const COUNTING: &str = r#"
{ who, n }: builtins.genList (i: derivation {
  name = "count-${who}-${toString i}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" ''
    echo $name >> /w/built; /bin/mkdir /w/run/$name
    set -- /w/run/*; echo $# > $out
    /bin/sleep 1; /bin/rmdir /w/run/$name
  '' ];
}) n
"#;

/// Returns the derivations of so many builds that count.
pub(crate) fn counting(client: &Host, builders: &[&Host], who: &str, n: u32) -> String {
    for builder in builders {
        builder
            .sh("mkdir -p /w/run; chmod 1777 /w /w/run; touch /w/built; chmod 666 /w/built")
            .unwrap();
    }
    client.write("/tmp/count.nix", COUNTING).unwrap();
    let instantiate = "nix-instantiate /tmp/count.nix";
    let line = format!("{instantiate} --argstr who {who} --arg n {n} 2>/dev/null");
    client.sh(&line).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Asserts that never more than so many ran beside each other on a machine, by what they have counted.
pub(crate) fn assert_slots(client: &Host, derivations: &str, slots: u32) {
    let counts = client.sh(&format!("cat $(nix-store -q --outputs {derivations})")).unwrap();
    let most = counts.split_whitespace().filter_map(|count| count.parse::<u32>().ok()).max();
    assert!(most.is_some_and(|most| most <= slots), "of {slots} slots there ran {counts}");
}

/// One store by two names, from two environments: they are one scheduler's, and slots aren't exceeded.
#[rstest]
fn environments_share_the_scheduler(#[values(Way::Line, Way::BuildHook)] way: Way) {
    let lab = HookLab::new("hook-envs", Suite::Forky, Users::Multi, way);
    let client = &lab.client;
    let line = format!("ssh-ng://b1 {}-linux - 2 1 big-parallel", std::env::consts::ARCH);
    let environment = match way {
        Way::Line => {
            client.write("/etc/nix/drover-machines", format!("{line}\n")).unwrap();
            "HOME=/root/other SSH_AUTH_SOCK=/nowhere"
        }
        // the same machines, listed elsewhere
        Way::BuildHook => {
            client.write("/etc/nix/machines", format!("{line}\n")).unwrap();
            client.write("/root/elsewhere", format!("# the same\n{line}\n")).unwrap();
            "HOME=/root/other NIX_CONFIG='builders = @/root/elsewhere'"
        }
    };
    client.sh("mkdir /root/other").unwrap();
    let [one, two] = ["one", "two"].map(|who| counting(client, &[&lab.b1], who, 6));
    let script = format!(
        "NIX_REMOTE=daemon nix-store -r {one} -j0 2>/root/one & one=$!
         {environment} NIX_REMOTE=local nix-store -r {two} -j0 2>/root/two & two=$!
         wait $one || {{ cat /root/one; exit 1; }}; wait $two || {{ cat /root/two; exit 1; }}
         pgrep -fc '[d]rover hook daemon'"
    );
    let told = client.sh(&script).unwrap();
    assert_slots(client, &format!("{one} {two}"), 2);
    assert_eq!(told.lines().last(), Some("1"), "one daemon for both: {told}");
    // and whoever asks hears of it
    for asks in ["NIX_REMOTE=daemon", "HOME=/root/other NIX_REMOTE=local"] {
        let told = client.sh(&format!("{asks} drover builds; {asks} drover machines")).unwrap();
        assert!(told.contains("nothing is built") && told.contains(" connected "), "{told}");
    }
}

/// Where daemons must differ, as they have different machines, all of them are asked.
#[test]
fn all_daemons_for_hooks_are_asked() {
    let lab = HookLab::new("hook-several", Suite::Forky, Users::Multi, Way::BuildHook);
    let client = &lab.client;
    let list = |host: &str| format!("{host} {}-linux - 2", std::env::consts::ARCH);
    let graph = |n: &str| client.instantiate(&[("shape", "wide"), ("n", n), ("sleep", "600")]);
    let builds: Vec<_> = [("b1", "1"), ("b2", "2")]
        .into_iter()
        .map(|(host, n)| {
            let machines = format!("builders = ssh-ng://{}", list(host));
            let line = format!("exec nix-store -r {} -j0", graph(n).unwrap());
            let environment = ["env", "NIX_REMOTE=local"];
            let conf = format!("NIX_CONFIG={machines}");
            client.spawn(&[&environment[..], &[conf.as_str(), "sh", "-c", &line]].concat()).unwrap()
        })
        .collect();
    until("both daemons are told of", || {
        let told = client.sh("drover builds 2>&1 || :").unwrap();
        told.contains("b1 ") && told.contains("b2 ")
    });
    let told = client.sh("drover machines").unwrap();
    assert!(told.contains("b1 ") && told.contains("b2 "), "{told}");
    // each has a first build
    let list = client.sh("drover builds --json").unwrap();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let builds_of_both = list["builds"].as_array().unwrap().iter();
    let ids: Vec<&str> = builds_of_both.filter_map(|build| build["id"].as_str()).collect();
    let first: Vec<&&str> = ids.iter().filter(|id| id.ends_with(":1")).collect();
    assert_eq!(first.len(), 2, "{ids:?}");
    let which = client.run(&["drover", "builds", "explain", "1"]).unwrap();
    assert_code(&which, 1);
    for id in first {
        assert!(stderr(&which).contains(id), "{}", stderr(&which));
        client.sh(&format!("drover builds explain {id} && drover builds log {id}")).unwrap();
    }
    client.sh("drover machines drain ssh-ng://b2 2>&1").unwrap();
    let told = client.sh("drover machines").unwrap();
    assert!(
        told.lines().any(|line| line.starts_with("b2 ") && line.contains("draining")),
        "{told}"
    );
    for build in builds {
        build.signal(Signal::Interrupt);
        build.wait(LIMIT).unwrap();
    }
}

/// Machines that take connections and say nothing: what Nix may build here it builds here.
#[rstest]
fn with_silent_machines_nix_builds_here(#[values(Way::Line, Way::BuildHook)] way: Way) {
    let lab = HookLab::new("hook-silent", Suite::Forky, Users::Multi, way);
    for host in [&lab.b1, &lab.b2] {
        swallow_everything(host, &lab.client);
    }
    lab.builds_here();
    let refused = lab.refuses_to_build_here();
    assert!(stderr(&refused).contains("timed out"), "{}", stderr(&refused));
}

/// A machine that is up and takes other builds only is no reason to take those of one that is silent.
#[test]
fn a_machine_for_others_stands_in_for_none() {
    let lab = HookLab::new("hook-kinds", Suite::Forky, Users::Multi, Way::Line);
    let client = &lab.client;
    let arch = std::env::consts::ARCH;
    let lines = format!(
        "ssh-ng://b1 {arch}-linux - 2\nssh-ng://b2 {arch}-linux - 2 1 big-parallel big-parallel\n"
    );
    client.write("/etc/nix/drover-machines", lines).unwrap();
    client.sh("drover hook line > /etc/nix/machines").unwrap();
    swallow_everything(&lab.b1, client);
    let expression = "derivation { name = \"x\"; builder = \"/bin/sh\"; \
                      system = builtins.currentSystem; args = [ \"-c\" \"echo built > $out\" ]; \
                      requiredSystemFeatures = [ \"big-parallel\" ]; }";
    client.write("/root/x.nix", expression).unwrap();
    let drv = client.sh("nix-instantiate /root/x.nix 2>/dev/null").unwrap();
    assert_code(&lab.build("NIX_REMOTE=daemon", &format!("{} -j0", drv.trim())), 0);
    lab.builds_here();
}

/// Nobody is behind a line any more: what Nix may build here it builds here, and it's told why.
#[test]
fn a_line_that_is_out_of_date_leaves_builds_to_nix() {
    let lab = HookLab::new("hook-stale", Suite::Forky, Users::Multi, Way::Line);
    let client = &lab.client;
    let drv = |n: &str| client.instantiate(&[("shape", "wide"), ("n", n)]).unwrap();
    assert_code(&lab.build("NIX_REMOTE=daemon", &format!("{} -j0", drv("1"))), 0);
    client.write("/etc/nix/drover-machines", "# none\n").unwrap();
    let built = lab.build("NIX_REMOTE=daemon", &format!("{} -j2", drv("5")));
    assert_code(&built, 0);
    let told = stderr(&built);
    assert!(told.contains("'drover hook install' writes the lines anew"), "{told}");
}

/// What is said to the daemon for hooks counts, and goes on to: in the files, and by `drover machines`.
#[test]
fn the_daemon_for_hooks_does_as_it_is_told() {
    let lab = HookLab::new("hook-told", Suite::Forky, Users::Multi, Way::BuildHook);
    let client = &lab.client;
    client.sh("id ann 2>/dev/null || useradd -m ann").unwrap();
    let daemon = "drover hook daemon --builders @/etc/nix/machines --idle 2";
    let daemon = client.spawn(&["sh", "-c", &format!("exec {daemon}")]).unwrap();
    until("it listens", || {
        client.run(&["sh", "-c", "ls /run/drover-hook/*.socket"]).unwrap().status.success()
    });
    let mistyped = client.run(&["drover", "machines", "drain", "nosuch"]).unwrap();
    assert_code(&mistyped, 1);
    let told = stderr(&mistyped);
    assert!(told.contains("there is no machine 'nosuch'; there are: b1, b2"), "{told}");
    // it would know nothing of it if it ended meanwhile
    client.sh("drover machines drain b1 && drover machines drain b2").unwrap();
    let told = client.sh("sleep 6; drover machines").unwrap();
    assert_eq!(told.matches("draining").count(), 2, "{told}");
    // what is only for these waits; what Nix can build itself it builds
    lab.builds_here();
    let drv = client.instantiate(&[("shape", "wide"), ("n", "7")]).unwrap();
    let waiting =
        client.spawn(&["sh", "-c", &lab.line("NIX_REMOTE=daemon", &format!("{drv} -j0"))]);
    until("it waits", || client.sh("drover builds").unwrap().contains("wide-"));
    client.sh("drover machines resume b1").unwrap();
    assert_code(&waiting.unwrap().wait(LIMIT).unwrap(), 0);
    // who may ask
    let asks =
        |user: &str| client.run(&["su", user, "-c", "drover builds"]).unwrap().status.success();
    assert!(asks("ann"));
    client.sh("echo 'allowed-users = root' >> /etc/nix/nix.conf").unwrap();
    until("ann may not ask any more", || !asks("ann"));
    assert!(asks("root"));
    client.sh("drover machines resume b2").unwrap();
    daemon.wait(LIMIT).unwrap();
}

/// Nix asks about all that waits whenever something has ended.
#[test]
fn machines_that_are_down_are_told_of_once() {
    let lab = HookLab::new("hook-noise", Suite::Forky, Users::Multi, Way::BuildHook);
    lab.b1.kill_sshd();
    lab.b2.kill_sshd();
    let drv = lab.client.instantiate(&[("shape", "wide"), ("n", "12")]).unwrap();
    let built = lab.build("NIX_REMOTE=daemon", &format!("{drv} -j1"));
    assert_code(&built, 0);
    let told = stderr(&built);
    let count = told.matches("elsewhere: ").count();
    assert!((1..6).contains(&count), "{count} times: {told}");
}

/// No machine answers: what Nix may build here it builds here, and with -j0 it says what is wrong.
#[rstest]
fn with_no_machine_up_nix_builds_here(
    #[values(Suite::Forky, Suite::Bookworm)] suite: Suite,
    #[values(Way::Line, Way::BuildHook)] way: Way,
) {
    let lab = HookLab::new("hook-down", suite, Users::Multi, way);
    lab.b1.kill_sshd();
    lab.b2.kill_sshd();
    // be it the very first question, before it's known that none is up
    lab.builds_here();
    let refused = lab.refuses_to_build_here();
    let told = stderr(&refused);
    assert!(told.contains("b1") && told.contains("refused"), "{told}");
    // and once one is up again it's used
    lab.b1.start_sshd().unwrap();
    let drv = lab.client.instantiate(&[("shape", "wide"), ("n", "5")]).unwrap();
    let script = format!(
        "end=$(($(date +%s) + 60))
         until NIX_REMOTE=daemon nix-store -r {drv} -j0; do
           [ $(date +%s) -lt $end ] || exit 1; sleep 1
         done 2>/dev/null"
    );
    lab.client.sh(&script).unwrap();
}

/// Nobody has the feature: the reason is told for each machine, and nothing hangs.
#[rstest]
fn a_feature_that_nobody_has(#[values(Way::Line, Way::BuildHook)] way: Way) {
    let lab = HookLab::new("hook-feature", Suite::Forky, Users::Multi, way);
    let expression = "derivation { name = \"x\"; builder = \"/bin/sh\"; system = \"x86_64-linux\"; \
                      requiredSystemFeatures = [ \"quantum\" ]; }";
    lab.client.write("/root/x.nix", expression).unwrap();
    let drv = lab.client.sh("nix-instantiate /root/x.nix 2>/dev/null").unwrap();
    let refused = lab.build("NIX_REMOTE=daemon", &format!("{} -j0", drv.trim()));
    assert_code(&refused, 1);
    let told = stderr(&refused);
    match way {
        // drover isn't asked: Nix sees that no line has it
        Way::Line => assert!(told.contains("quantum"), "{told}"),
        Way::BuildHook => {
            let sentence = format!(
                "no machine can build '{}' (x86_64-linux), which needs quantum:",
                drv.trim()
            );
            assert!(told.contains(&sentence), "{told}");
            for host in ["b1", "b2"] {
                let reason = format!("ssh-ng://{host}: lacks quantum (column 6)");
                assert!(told.contains(&reason), "{told}");
            }
        }
    }
}

/// One that is interrupted leaves nothing running, here or there; meanwhile its builds are listed.
#[rstest]
#[case::nix_2_34(Suite::Forky, Users::Single)]
#[case::nix_2_34_daemon(Suite::Forky, Users::Multi)]
#[case::nix_2_8_daemon(Suite::Bookworm, Users::Multi)]
fn a_client_leaves(
    #[case] suite: Suite,
    #[case] users: Users,
    #[values(Way::Line, Way::BuildHook)] way: Way,
) {
    let lab = HookLab::new("hook-leaves", suite, users, way);
    let graph = [("shape", "wide"), ("n", "2"), ("sleep", "600")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let line = lab.line(environment(users), &format!("{drv} -j0"));
    let running = lab.client.spawn(&["sh", "-c", &line]).unwrap();
    let builders = [&lab.b1, &lab.b2];
    let sleeping = || builders.iter().flat_map(|host| remains(host, &["sleep 600"])).count();
    until("both are being built", || sleeping() == 2);
    let store = match users {
        Users::Single => "--store local",
        Users::Multi => "",
    };
    let told = lab.client.sh(&format!("drover builds {store}; drover machines {store}")).unwrap();
    for words in ["wide-0 ", "wide-1 ", " building ", "b1 ", "b2 ", " connected "] {
        assert!(told.contains(words), "{words:?} is not in {told}");
    }
    assert!(told.contains(" root\n"), "for whom it is: {told}");
    if matches!(users, Users::Multi) {
        // others may ask root's daemon, and no more
        let by_alice = |line: &str| {
            let line = format!("su alice -s /bin/sh -c '{line}' 2>&1 || :");
            lab.client.sh(&line).unwrap()
        };
        let told = by_alice("drover builds");
        assert!(told.contains("wide-0 ") && told.contains("wide-1 "), "{told}");
        let told = by_alice("drover machines drain b1");
        assert!(told.contains("may only ask"), "{told}");
    }
    running.signal(Signal::Interrupt);
    let ended = running.wait(LIMIT).unwrap();
    assert_code(&ended, 1);
    assert!(stderr(&ended).contains("interrupted by the user"), "{}", stderr(&ended));
    // connections stay for the next build, as the daemon for hooks does
    for host in builders {
        let left = ["sleep 600", "$name starts"];
        until("no build is left there", || remains(host, &left).is_empty());
    }
    let hooks =
        ["nix-store", "build-remote", "drover hook connect", "drover hook 3", "build-hook 3"];
    until("no hook is left here", || remains(&lab.client, &hooks).is_empty());
    until("no folder is left here but the daemon's", || {
        lab.client.sh("ls -d /tmp/drover-* | wc -l").unwrap().trim() == "1"
    });
    until("nobody waits any more", || {
        lab.client.sh(&format!("drover builds {store}")).unwrap().trim() == "nothing is built"
    });
}

/// Two clients want the same: it is built once, in no more slots than there are.
#[rstest]
fn clients_share(#[values(Way::Line, Way::BuildHook)] way: Way) {
    let lab = HookLab::new("hook-clients", Suite::Forky, Users::Multi, way);
    let builders = [&lab.b1, &lab.b2];
    let drvs = counting(&lab.client, &builders, "same", 6);
    let script = format!(
        "export NIX_REMOTE=daemon
         nix-store -r {drvs} -j0 2>/root/one & one=$!
         nix-store -r {drvs} -j0 2>/root/two & two=$!
         wait $one && wait $two"
    );
    lab.client.sh(&script).unwrap();
    lab.client.sh("nix-store --verify --check-contents 2>&1").unwrap();
    assert_slots(&lab.client, &drvs, 2);
    let built = builders.map(|host| host.sh("cat /w/built").unwrap()).join("\n");
    let mut names: Vec<&str> = built.split_whitespace().collect();
    names.sort_unstable();
    let each: Vec<String> = (0..6).map(|i| format!("count-same-{i}")).collect();
    assert_eq!(names, each, "each is built once");
}

/// The daemon for hooks is kept from answering for a while: nobody takes that for machines that can't be used.
#[rstest]
fn a_daemon_that_is_slow_to_answer_fails_no_build(#[values(Way::Line, Way::BuildHook)] way: Way) {
    let lab = HookLab::new("hook-slow", Suite::Forky, Users::Multi, way);
    let build = |n: &str| {
        let drv = lab.client.instantiate(&[("shape", "wide"), ("n", n)]).unwrap();
        assert_code(&lab.build("NIX_REMOTE=daemon", &format!("{drv} -j0")), 0);
    };
    build("1");
    let daemon = "pid=$(pgrep -f '[d]rover hook daemon'); kill -STOP $pid; (sleep 3; kill -CONT $pid) >/dev/null 2>&1 &";
    lab.client.sh(daemon).unwrap();
    build("2");
}
