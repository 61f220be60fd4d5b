//! What lets others do what only root should, in the doctor's report.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::world::World;

fn set_mode(path: &Path, mode: u32) {
    fs_err::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Returns what is told of settings, of files and of a key: origin, text and remedy, for those that say this.
fn told(world: &World, words: &str) -> Vec<(String, String, String)> {
    let told = world.run(&["doctor", "--json"]);
    let report: Value =
        serde_json::from_str(&told.out).unwrap_or_else(|error| panic!("{error}: {told:#?}"));
    let findings = report["configuration"]["findings"].as_array().unwrap();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let all = findings
        .iter()
        .map(|finding| (text(finding, "origin"), text(finding, "text"), text(finding, "remedy")));
    all.filter(|(_, text, _)| text.contains(words)).collect()
}

#[test]
fn what_gives_root_away_is_told() {
    let world = World::new();
    let conf = world.path("conf/nix.conf");
    let (machines, key) = (world.path("conf/machines"), world.path("key"));
    let usual = "system = x86_64-linux\nsubstituters =\nallowed-users = *\ntrusted-users = root\n";
    let more = format!(
        "build-users-group = nixbld\nbuilders = @{}\nsecret-key-files = {}\ninclude more.conf\n",
        machines.display(),
        key.display()
    );
    fs_err::write(&conf, [usual, &more].concat()).unwrap();
    let included = world.path("conf/more.conf");
    fs_err::write(&included, "cores = 1\n").unwrap();
    fs_err::write(&machines, "").unwrap();
    fs_err::write(&key, "k:x").unwrap();
    let files = [&conf, &included, &machines];
    files.iter().for_each(|file| set_mode(file, 0o644));
    set_mode(&key, 0o600);
    let words = ["everybody may", "'trusted-users'", "'require-sigs'", "'sandbox'"];
    for word in words {
        assert_eq!(told(&world, word), [], "nothing is wrong with that");
    }

    let open = "trusted-users = *\nrequire-sigs = false\nsandbox = false\n";
    fs_err::write(&included, open).unwrap();
    for (at, word) in ["'trusted-users' has '*'", "'require-sigs' is false", "'sandbox' is false"]
        .iter()
        .enumerate()
    {
        let [(origin, _, remedy)] = &told(&world, word)[..] else { panic!("{word} is told once") };
        assert_eq!(*origin, format!("{}:{}", included.display(), at + 1));
        assert!(!remedy.is_empty());
    }
    files.iter().for_each(|file| set_mode(file, 0o646));
    set_mode(&key, 0o644);
    for file in files {
        let [(origin, _, remedy)] =
            &told(&world, &format!("'{}' has mode 0646", file.display()))[..]
        else {
            panic!("{} is told of once", file.display())
        };
        assert_eq!(
            (origin, remedy),
            (&file.display().to_string(), &format!("chmod o-w {}", file.display()))
        );
    }
    let [(origin, _, remedy)] = &told(&world, "everybody may read it")[..] else { panic!("once") };
    assert!(origin.starts_with(&conf.display().to_string()) && remedy.starts_with("chmod o-r "));
    // whoever may write the folder puts another file there
    files.iter().for_each(|file| set_mode(file, 0o644));
    set_mode(&world.path("conf"), 0o777);
    assert_eq!(told(&world, "everybody may replace it").len(), 3);
    set_mode(&world.path("conf"), 0o1777);
    assert_eq!(told(&world, "everybody may replace it"), []);
}
