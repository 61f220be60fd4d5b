//! What tools such as nix-output-monitor read, held against what stock Nix writes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;

use drover_testkit::Suite;
use serde_json::Value;

use crate::{Lab, assert_code, builders, stderr};

/// What the lines of one action and type look like: keys with their kinds of value, and the kinds of
/// their fields.
type Shapes = BTreeMap<(String, Option<u64>), BTreeSet<String>>;

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn lines(output: &Output) -> Vec<Value> {
    let said = stderr(output);
    let values = said.lines().map(|line| {
        let json = line.strip_prefix("@nix ").unwrap_or_else(|| panic!("no activity: {line}"));
        serde_json::from_str(json).unwrap()
    });
    values.collect()
}

fn shapes(lines: &[Value]) -> Shapes {
    let mut shapes = Shapes::new();
    for line in lines {
        let keys: BTreeSet<String> = line
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| format!("{key}: {}", kind(value)))
            .collect();
        let keys: Vec<String> = keys.into_iter().collect();
        let fields: Vec<&str> = line["fields"].as_array().into_iter().flatten().map(kind).collect();
        let shape = format!("{} [{}]", keys.join(", "), fields.join(", "));
        let action = line["action"].as_str().unwrap().to_owned();
        shapes.entry((action, line["type"].as_u64())).or_default().insert(shape);
    }
    shapes
}

const SOURCE: &str = r#"
mkdir -p /w/bb/bin; cp /bin/busybox /w/bb/bin/
for applet in sh echo; do ln -s busybox /w/bb/bin/$applet; done
cat > /w/a.nix <<'E'
{ salt }:
let
  bb = builtins.path { path = /w/bb; name = "busybox"; };
  make = name: needs: script: derivation {
    inherit name needs salt;
    system = builtins.currentSystem;
    builder = "${bb}/bin/sh";
    PATH = "${bb}/bin";
    args = [ "-c" script ];
  };
  low = make "low" [ ] ''
    echo '@nix {"action":"setPhase","phase":"buildPhase"}' >&2
    echo words
    echo low > $out'';
in { good = make "good" [ low ] "echo > $out"; bad = make "bad" [ low ] "exit 1"; }
E"#;

/// Every line that drover writes looks as one of stock Nix's of the same action and type.
#[test]
fn every_line_has_the_shape_of_nix() {
    let lab = Lab::new("activity", Suite::Forky, Suite::Forky);
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    lab.client.sh(SOURCE).unwrap();
    let run = |program: &str, attribute: &str, salt: &str, code: i32| {
        let what = format!("-f /w/a.nix {attribute} --argstr salt {salt}");
        let line = format!(
            "{program} --no-link -j0 --builders '{machines}' --log-format internal-json -v {what}"
        );
        let output = lab.client.run(&["sh", "-c", &line]).unwrap();
        assert_code(&output, code);
        lines(&output)
    };
    let mut theirs = run("nix build", "good", "1", 0);
    theirs.extend(run("nix build -L", "bad", "2", 1));
    let mut ours = run("drover build", "good", "3", 0);
    ours.extend(run("drover build -L", "bad", "4", 100));
    let (theirs, ours) = (shapes(&theirs), shapes(&ours));
    for (kind, shapes) in &ours {
        let known = theirs.get(kind).unwrap_or_else(|| panic!("{kind:?} is not in {theirs:#?}"));
        assert!(shapes.is_subset(known), "{kind:?}: {shapes:#?} are not among {known:#?}");
    }
    // what makes builds, their machines, their phases and their logs visible
    let needed =
        [("start", 104), ("start", 105), ("result", 101), ("result", 104), ("result", 105)];
    for (action, number) in needed {
        assert!(
            ours.contains_key(&(action.to_owned(), Some(number))),
            "{action} {number}: {ours:#?}"
        );
    }
}
