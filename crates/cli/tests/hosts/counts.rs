//! Machines whose answers hold ten million of something.

use drover_testkit::{Host, Suite};
use rstest::rstest;

use crate::failures::script_drv;
use crate::{LIMIT, Lab, builders, stderr, stdout};

/// KiB that a run may take in all.
const MOST: u64 = 100 * 1024;

/// A server whose answers go through some Perl: `$_` is a piece of them.
const FILTER: &str = r#"
use IO::Handle; STDOUT->autoflush(1); binmode STDOUT;
sub str { my $s = shift; return pack("Q<", length $s) . $s . "\0" x (-length($s) % 8) }
my $many = 10_000_000;
# the NAR hash of a path info, and what follows: references, time, size
my $hash = qr/\x40\0{7}[0-9a-f]{64}/;
open(my $in, '-|', 'nix-daemon', '--stdio') or die;
while (sysread($in, $_, 1 << 20)) { CHANGE; print }
"#;

/// Says that there are so many, and sends them.
const REFERENCES: &str = r#"if (s/($hash)\0{8}.*//s) {
  print $_, $1, pack("Q<", $many); my $one = str("/nix/store/" . "a" x 32 . "-x");
  print $one for 1 .. $many; exit }"#;
const SIGNATURES: &str = r#"if (s/($hash\0{8}.{24})\0{8}.*//s) {
  print $_, $1, pack("Q<", $many); my $one = str("k:" . "A" x 86 . "==");
  print $one for 1 .. $many; exit }"#;
/// Files that are empty, in a path that is said to be large.
const FILES: &str = r#"s/($hash\0{8}.{8}).{8}/$1 . pack("Q<", 1 << 40)/se;
  if (s/(.*nix-archive-1\0{3}.*?directory\0{7}).*//s) {
    print $1;
    for my $at (1 .. $many) {
      print map { str($_) } "entry", "(", "name", sprintf("%08d", $at), "node", "(", "type",
        "regular", "contents", "", ")", ")" }
    exit }"#;
/// A word of the server with so many fields, before it answers a build.
const FIELDS: &str = r#"$began ||= /many/; if ($began && s/stla\0{4}.*//s) {
  print $_, pack("Q<3", 0x52534c54, 1, 101), pack("Q<", $many);
  my $one = pack("Q<", 1) . str("x"); print $one for 1 .. $many; exit }"#;

/// Runs a program, says how much memory it took at most, and ends as it did.
///
/// The system says that when it has ended: who looks meanwhile may miss the most.
const MEASURE: &str = r#"
my $ended = system @ARGV; my $usage = "\0" x 144;
syscall(GETRUSAGE, -1, $usage) == 0 or die "getrusage: $!";
print unpack("x32 q<", $usage); exit($ended & 127 ? 255 : $ended >> 8)
"#;

/// Runs a command, and returns the KiB of memory that it took at most with what it told.
pub(crate) fn measured(client: &Host, line: &str) -> (u64, String, Option<i32>) {
    let number = match std::env::consts::ARCH {
        "x86_64" => "98",
        _ => "165",
    };
    let measure = MEASURE.replace("GETRUSAGE", number);
    let script = format!("exec {line} 2>/w/said");
    client.sh("mkdir -p /w").unwrap();
    let ran = client.run_within(LIMIT, &["perl", "-e", &measure, "sh", "-c", &script]).unwrap();
    let peak = stdout(&ran).parse().unwrap_or_else(|_| panic!("{}", stderr(&ran)));
    let said = client.read("/w/said").unwrap();
    (peak, String::from_utf8_lossy(&said).into_owned(), ran.status.code())
}

/// Each is an error that says what is wrong with whose answer, and takes no memory.
#[rstest]
#[case::references(REFERENCES, &["b1", "10000000 references of a path exceed limit 100000"])]
#[case::signatures(SIGNATURES, &["b1", "10000000 signatures of a path exceed limit 1000"])]
#[case::fields(FIELDS, &["b1", "10000000 fields of an activity exceed limit 1000"])]
#[case::files(FILES, &["-many': all 1000 inodes", "drover gc"])]
fn ten_million(#[case] change: &str, #[case] words: &[&str]) {
    let lab = Lab::new("counts", Suite::Forky, Suite::Forky);
    let (client, b1) = (&lab.client, &lab.b1);
    b1.sh("mkdir -p /w").unwrap();
    b1.write("/w/filter.pl", FILTER.replace("CHANGE", change)).unwrap();
    b1.write("/w/served", "#!/bin/sh\nexec perl /w/filter.pl\n").unwrap();
    b1.sh("chmod +x /w/served; command -v perl").unwrap();
    let drv = script_drv(client, "many", "busybox mkdir $out; echo > $out/a", "");
    // a store that has room for a thousand files
    let store = "local?root=/w/small";
    client.sh("mkdir /w/small; busybox mount -t tmpfs -o nr_inodes=1000 tmpfs /w/small").unwrap();
    client.sh(&format!("nix copy --extra-experimental-features nix-command --no-check-sigs --to '{store}' --derivation {drv}")).unwrap();
    let machines = builders("ssh-ng", &["b1?remote-program=/w/served"], 1);
    let line =
        format!("drover build --no-link -j0 --store '{store}' --builders '{machines}' {drv}");
    let (peak, said, code) = measured(client, &line);
    assert_eq!(code, Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    assert!(peak < MOST, "{peak} KiB: {said}");
}
