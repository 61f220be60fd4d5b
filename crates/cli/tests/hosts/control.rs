//! What the daemon says of its machines and builds while stock Nix builds for two users, and what is
//! said before a build: a machine is down, another is drained while it builds, a feature nobody has.

use drover_testkit::{Host, Running, Suite};

use crate::own::{assert_sound, become_the_daemon};
use crate::{LIMIT, Lab, assert_code, builders, stdout};

/// Builds that note that they run, and end when they are told to.
const NIX: &str = r#"{ name, features ? [ ] }: derivation { inherit name; system = builtins.currentSystem;
  builder = "/bin/sh"; requiredSystemFeatures = features;
  args = [ "-c" "echo it begins; while ! [ -e /w/go ]; do /bin/busybox sleep 0.1; done; echo built > $out" ]; }"#;

fn instantiate(host: &Host, name: &str, features: &str) -> String {
    let arguments = format!("--argstr name {name} --arg features '{features}'");
    let drv = host.sh(&format!("NIX_REMOTE=local nix-instantiate --quiet /w/x.nix {arguments}"));
    drv.unwrap().trim().to_owned()
}

fn realise(host: &Host, user: &str, drv: &str) -> Running {
    let script = format!("NIX_REMOTE=daemon nix-store -r {drv}");
    host.spawn(&["su", user, "-s", "/bin/sh", "-c", &script]).unwrap()
}

/// Runs something until it says these words.
fn until(host: &Host, command: &str, words: &str) -> String {
    let script = format!(
        "for i in $(seq 600); do said=$({command} 2>&1); case \"$said\" in *'{words}'*) \
         echo \"$said\"; exit 0;; esac; sleep 0.1; done; echo \"$said\" >&2; exit 1"
    );
    host.sh(&script).unwrap()
}

#[test]
fn the_daemon_says_what_runs_where_for_whom_and_drains_machines() {
    let lab = Lab::new("control", Suite::Forky, Suite::Bookworm);
    let (head, b1, b2) = (&lab.client, &lab.b1, &lab.b2);
    head.sh("mkdir -p /w; id ann 2>/dev/null || useradd -m ann").unwrap();
    head.sh("echo 'max-jobs = 0' >> /etc/nix/nix.conf").unwrap();
    for builder in [b1, b2] {
        builder.sh("mkdir -p /w && chmod 1777 /w").unwrap();
    }
    // where nobody is
    b2.kill_sshd();
    become_the_daemon(head, &builders("ssh-ng", &["b1", "b2"], 1).replace(';', "\n"));
    head.write("/w/x.nix", NIX).unwrap();
    let [one, two] = ["one", "two"].map(|name| instantiate(head, name, "[ ]"));

    // two users, one slot
    let first = realise(head, "root", &one);
    until(head, "drover builds", "b1");
    let second = realise(head, "ann", &two);
    until(head, "drover builds", "ann");
    let told = until(head, "drover machines", "down");
    assert!(told.contains("b1       connected"), "{told}");
    assert!(told.contains("1/1"), "{told}");
    assert!(told.contains("cannot be reached: "), "{told}");
    let told = until(head, "drover builds --json", "\"state\":\"building\"");
    let builds: serde_json::Value = serde_json::from_str(&told).unwrap();
    let of = |name: &str| {
        let builds = builds.pointer("/builds").unwrap().as_array().unwrap();
        let is_it = |build: &&serde_json::Value| {
            build.get("derivation").unwrap().as_str().unwrap().ends_with(name)
        };
        builds.iter().find(is_it).unwrap().clone()
    };
    let (running, waiting) = (of("-one.drv"), of("-two.drv"));
    assert_eq!(running["machine"], "b1", "{builds}");
    assert_eq!((&running["clients"][0], &waiting["clients"][0]), (&"root".into(), &"ann".into()));
    until(head, &format!("drover builds log {}", running["id"].as_str().unwrap()), "it begins");

    // anybody may ask; orders are for those who are trusted
    let told = head.sh("su ann -c 'drover machines drain b1' 2>&1 && exit 1; exit 0").unwrap();
    assert!(told.contains("user 'ann' may only ask"), "{told}");
    head.sh("su ann -c 'drover builds' | grep -q ' ann'").unwrap();
    let told = head.sh("drover machines drain b1 2>&1; drover machines").unwrap();
    assert!(told.contains("b1       draining"), "{told}");
    let explained = until(head, &format!("drover builds explain {two}"), "draining");
    assert!(explained.contains("b2: not chosen: it is down since "), "{explained}");
    assert!(explained.contains(", for ann"), "{explained}");

    // what runs there ends, what waits goes on waiting
    b1.sh("touch /w/go").unwrap();
    let ended = first.wait(LIMIT).unwrap();
    assert_code(&ended, 0);
    assert!(stdout(&ended).ends_with("-one"), "{}", stdout(&ended));
    let told = head.sh("drover builds; kill -HUP $(pgrep -x drover); drover machines").unwrap();
    assert!(told.contains("two") && told.contains("ready"), "{told}");
    assert!(told.contains("b1       draining") && told.contains("0/1"), "{told}");
    head.sh("drover machines resume b1").unwrap();
    assert_code(&second.wait(LIMIT).unwrap(), 0);
    assert_eq!(head.sh("drover builds").unwrap().trim(), "nothing is built");
    // it can be asked afterwards, too
    let explained = head.sh(&format!("drover builds explain {two}")).unwrap();
    assert!(explained.contains("over") && explained.contains("b1: chosen"), "{explained}");
    assert_sound(head);
}

#[test]
fn before_a_build_it_is_said_where_it_would_run() {
    let lab = Lab::new("explain", Suite::Forky, Suite::Bookworm);
    let (client, b2) = (&lab.client, &lab.b2);
    client.sh("mkdir -p /w").unwrap();
    client.write("/w/x.nix", NIX).unwrap();
    let plain = instantiate(client, "plain", "[ ]");
    let odd = instantiate(client, "odd", "[ \"cuda\" ]");
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    let all = lab.drover(&["explain", &plain, "-j0", "--builders", &machines]);
    assert_code(&all, 0);
    let told = stdout(&all);
    let first = "distributing: yes: 1 of 1 derivation would be built on 1 other machine\n";
    assert!(told.starts_with(first), "{told}");
    assert!(told.contains("b1: 2 slots free") && told.contains("b2: 2 slots free"), "{told}");
    // one is gone, and a feature that nobody has
    b2.kill_sshd();
    let both = lab.drover(&["explain", &plain, &odd, "-j0", "--builders", &machines]);
    assert_code(&both, 1);
    let told = stdout(&both);
    assert!(told.contains("on 1 other machine, 1 can't be built anywhere"), "{told}");
    assert!(told.contains("with cuda can't be built anywhere:"), "{told}");
    assert!(told.contains("b1, b2: declined: it lacks feature cuda"), "{told}");
    assert!(told.contains("b1 (likely 1): accepted"), "{told}");
    assert!(told.contains("b2: not used: it is down ("), "{told}");
    // nothing was built, and where something is it's no wonder
    let json = lab.drover(&["explain", &plain, "-j0", "--builders", &machines, "--json"]);
    assert_code(&json, 0);
    let json: serde_json::Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!(json["distributing"], true);
    assert_eq!(json["derivations"][0]["derivation"], plain);
    assert_eq!(json["derivations"][0]["machine"], "b1");
}
