//! What two drovers say to each other over SSH travels packed.

use drover_testkit::{Host, Suite};

use crate::Lab;

/// Bytes that a host has sent to others so far.
fn sent(host: &Host) -> u64 {
    let said = "awk -F'[: ]+' '$2 ~ /^[a-z]/ && $2 != \"lo\" { sum += $11 } END { print sum }'";
    let normal = "sed 's/^ */ /' /proc/net/dev";
    host.sh(&format!("{normal} | {said}")).unwrap().trim().parse().unwrap()
}

#[test]
fn contents_of_paths_travel_packed_both_ways() {
    const SIZE: u64 = 20_000_000;
    let lab = Lab::new("packed", Suite::Forky, Suite::Forky);
    let (client, other) = (&lab.client, &lab.b1);
    other.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    other.sh("drover compat install /w/names; pkill -x nix-daemon").unwrap();
    let theirs = "ssh-ng://b1?remote-program=/w/names/nix-daemon";
    // what repeats, and what doesn't, in many files and in one
    let fill = format!(
        "mkdir -p /w/numbers/small; seq 100000000 | head -c {SIZE} > /w/numbers/large; cd /w/numbers/small; \
         for i in $(seq 200); do echo number $i > $i; done; head -c 1000000 /dev/urandom > noise; \
         nix-store --add /w/numbers"
    );
    let path = client.sh(&fill).unwrap().trim().to_owned();
    let before = sent(client);
    client.sh(&format!("drover copy --no-check-sigs --to '{theirs}' {path}")).unwrap();
    let pushed = sent(client) - before;
    assert!((1_000_000..SIZE / 2).contains(&pushed), "{pushed} bytes for a path of {SIZE}");
    let before = sent(other);
    client
        .sh(&format!(
            "drover copy --no-check-sigs --from '{theirs}' --to 'local?root=/w/back' {path}; \
             diff -r {path} /w/back/{path}"
        ))
        .unwrap();
    let pulled = sent(other) - before;
    assert!((1_000_000..SIZE / 2).contains(&pulled), "{pulled} bytes for a path of {SIZE}");
    other.sh(&format!("NIX_REMOTE=local nix-store --verify-path {path}")).unwrap();
}
