//! `drover cache serve` with stock Nix of all three releases at the other end.

use drover_testkit::{Host, Running, Suite};

use crate::{LIMIT, Lab};

const CACHE: &str = "http://c:5000";
const NIX: &str = "nix --extra-experimental-features nix-command";

/// A lab whose client has built something and serves it; says what, and by which key it's signed.
struct Serving {
    lab: Lab,
    server: Running,
    drv: String,
    out: String,
    key: String,
}

impl Serving {
    fn new(name: &str, arguments: &[&str]) -> Serving {
        let lab = Lab::new(name, Suite::Trixie, Suite::Bookworm);
        let client = &lab.client;
        let graph = [("shape", "layers"), ("n", "3"), ("d", "2"), ("k", "2"), ("size", "300000")];
        let drv = client.instantiate(&graph).unwrap();
        let out = client.sh(&format!("nix-store -r {drv} 2>/dev/null")).unwrap().trim().to_owned();
        let key = client
            .sh("mkdir -p /w; cd /w; nix-store --generate-binary-cache-key c-1 c.sec c.pub; cat c.pub
                 printf 0123456789abcdef0123 > /w/token")
            .unwrap();
        let fixed = ["drover", "cache", "serve", "--listen", "0.0.0.0:5000"];
        let signed = ["--sign-key-file", "/w/c.sec"];
        let line = [&fixed[..], &signed, arguments].concat();
        let mut server = client.spawn(&line).unwrap();
        server.wait_for("serving store", LIMIT).unwrap();
        Serving { lab, server, drv, out, key: key.trim().to_owned() }
    }

    /// Runs a script with what it needs to know.
    fn on(&self, host: &Host, script: &str) -> String {
        let Serving { drv, out, key, .. } = self;
        let script = format!(
            "mkdir -p /w; cache={CACHE}; drv={drv}; out={out}; key={key}; nix() {{ command {NIX} \"$@\"; }}
             {script}"
        );
        host.sh(&script).unwrap()
    }
}

/// Copies by signature, verifies, lists, reads a log; then substitutes.
const READS: &str = "
    nix copy --from $cache --option trusted-public-keys $key $out 2>&1
    nix-store --verify-path $(nix-store -qR $out)
    nix path-info --sigs $out | grep -q c-1:
    nix store ls --store $cache -lR $out > /tmp/theirs
    nix store ls -lR $out > /tmp/ours
    cmp /tmp/theirs /tmp/ours
    nix log --store $cache $drv > /tmp/log || nix --store $cache log $drv > /tmp/log
    test -s /tmp/log
    nix-store --delete $(nix-store -qR $out | grep -E 'graph|layer') >/dev/null 2>&1 || true
    test ! -e $out
    nix-store -r $out --option substituters $cache --option trusted-public-keys $key -j0 2>&1
    nix-store --verify-path $out";

#[test]
fn stock_nix_reads_what_is_compressed() {
    let serving = Serving::new("serving-zstd", &[]);
    assert!(serving.server.stdout().contains(&serving.key), "{}", serving.server.stdout());
    for host in [&serving.lab.b1, &serving.lab.b2] {
        serving.on(host, READS);
    }
    // 2.34, into another store of the same machine
    serving.on(
        &serving.lab.client,
        "nix copy --from $cache --to 'local?root=/w/other' --option trusted-public-keys $key $out 2>&1
         nix --store 'local?root=/w/other' store verify -r $out --option trusted-public-keys $key 2>&1",
    );
    // what nobody trusts isn't taken
    let refused = serving.on(
        &serving.lab.client,
        "nix copy --from $cache --to 'local?root=/w/third' --option trusted-public-keys '' $out 2>&1 \
         && echo taken || true",
    );
    assert!(refused.contains("signature") && !refused.contains("taken"), "{refused}");
}

#[test]
fn stock_nix_reads_what_is_not_compressed() {
    let serving = Serving::new("serving-none", &["--compression", "none"]);
    for host in [&serving.lab.b1, &serving.lab.b2] {
        serving.on(host, READS);
    }
}

#[test]
fn stock_nix_writes_with_a_token() {
    let serving =
        Serving::new("serving-put", &["--write-token-file", "/w/token", "--accept-unsigned"]);
    let hosts = [&serving.lab.b1, &serving.lab.b2];
    for (host, compression) in hosts.into_iter().zip(["zstd", "xz"]) {
        let name = host.name();
        // without the token it is refused
        let said = serving.on(
            host,
            &format!(
                "echo {name} > /w/{name}; echo dependency > /w/dep-{name}
                 path=$(nix-store --add /w/{name})
                 nix copy --to \"$cache?compression={compression}\" $path 2>&1 && echo taken || true"
            ),
        );
        assert!(said.contains("401") && !said.contains("taken"), "{said}");
        serving.on(
            host,
            &format!(
                "printf 'machine c login any password 0123456789abcdef0123' > /w/netrc
                 path=$(nix-store --add /w/{name})
                 nix copy --option netrc-file /w/netrc \
                   --to \"$cache?compression={compression}&write-nar-listing=true\" $path 2>&1"
            ),
        );
        let there = serving.on(
            &serving.lab.client,
            &format!("cat /nix/store/*-{name}; nix-store --verify-path /nix/store/*-{name}"),
        );
        assert_eq!(there.trim(), name);
        // and back, under the server's own signature
        serving.on(
            host,
            &format!(
                "path=$(nix-store --add /w/{name}); nix-store --delete $path >/dev/null
                 rm -rf /root/.cache/nix
                 nix copy --from $cache --option trusted-public-keys $key $path 2>&1
                 nix path-info --sigs $path | grep -q c-1:"
            ),
        );
    }
    // 2.34, from another store of the server's machine
    serving.on(
        &serving.lab.client,
        "printf 'machine c login any password 0123456789abcdef0123' > /w/netrc; echo forky > /w/forky
         path=$(NIX_REMOTE='local?root=/w/other' nix-store --add /w/forky); test ! -e $path
         nix copy --option netrc-file /w/netrc --from 'local?root=/w/other' --to $cache $path 2>&1
         nix-store --verify-path $path; grep forky $path",
    );
}

/// What floating outputs became goes to the server and comes back, signed by it, so that nothing is built
/// where it comes to; by stock Nix 2.34 on both sides.
#[test]
fn stock_nix_shares_what_floating_outputs_became() {
    let lab = Lab::new("serving-floating", Suite::Forky, Suite::Forky);
    let drv = crate::floating::instantiate(&lab);
    let (client, b1, b2) = (&lab.client, &lab.b1, &lab.b2);
    let key = client
        .sh("cd /w; nix-store --generate-binary-cache-key c-1 c.sec c.pub; cat c.pub
             printf 0123456789abcdef0123 > token")
        .unwrap();
    let line =
        ["drover", "cache", "serve", "--listen", "0.0.0.0:5000", "--sign-key-file", "/w/c.sec"];
    let store = ["--store", "local?root=/w/served"];
    let writes = ["--write-token-file", "/w/token", "--accept-unsigned"];
    let mut server = client.spawn(&[&line[..], &store, &writes].concat()).unwrap();
    server.wait_for("serving store", LIMIT).unwrap();
    let copied = format!(
        "drv={drv}; nix-store -r $drv --option sandbox false -j1 2>/dev/null
         printf 'machine c login any password 0123456789abcdef0123' > /w/netrc
         nix copy --option netrc-file /w/netrc --to {CACHE} \
           $(nix-store -qR $drv | grep -E -- '-(top|high|low).drv$' | sed 's/$/^*/') 2>/w/said ||
           {{ cat /w/said >&2; exit 1; }}"
    );
    for other in [b1, b2] {
        client.sh(&format!("nix-copy-closure --to {} {drv} 2>&1", other.name())).unwrap();
    }
    for host in [b1, b2] {
        host.sh("mkdir -p /w").unwrap();
    }
    let out = b1.sh(&copied).unwrap().trim().to_owned();
    // `top` and the two floating ones below it
    let metrics = |kind: &str| {
        let script = format!("busybox wget -qO- {CACHE}/metrics");
        let told = b1.sh(&script).unwrap();
        let line = told.lines().find(|line| line.contains(kind)).unwrap_or("0").to_owned();
        line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()
    };
    let sent = metrics("kind=\"realisation\",method=\"put\",status=\"201\"");
    assert_eq!(sent, 3, "{}", server.stderr());
    assert_eq!(metrics("kind=\"log\",method=\"put\""), 0, "nix copy sends no logs");

    let fetch = format!(
        "nix-store -r {drv} -j0 --option builders '' --option substituters {CACHE} \
           --option trusted-public-keys"
    );
    // without the key nothing is believed
    let refused = b2.run(&["sh", "-c", &format!("{fetch} ''")]).unwrap();
    let said = crate::stderr(&refused);
    assert!(!refused.status.success() && said.contains("it's not signed"), "{said}");
    let fetched =
        b2.sh(&format!("{fetch} {} 2>/w/err || {{ cat /w/err >&2; exit 1; }}", key.trim()));
    assert_eq!(fetched.unwrap().trim(), out);
    b2.sh(&format!("nix-store --verify-path $(nix-store -qR {out}); nix path-info '{drv}^out'"))
        .unwrap();
    // what is below it isn't asked for, as it isn't needed
    let found = metrics("kind=\"realisation\",method=\"get\",status=\"200\"");
    assert!(found >= 1, "{found}");
}
