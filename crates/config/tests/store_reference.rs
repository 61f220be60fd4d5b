//! Names of stores: every form, and what is refused.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use drover_config::{Host, Scheme, StoreReference};
use rstest::rstest;

fn parse(text: &str) -> StoreReference {
    text.parse().unwrap()
}

#[rstest]
#[case("", "auto")]
#[case("auto", "auto")]
#[case("auto?root=/x", "auto?root=/x")]
#[case("?root=/x", "auto?root=/x")]
#[case("daemon", "daemon")]
#[case("daemon?trusted=true&max-connections=7", "unix://?max-connections=7&trusted=true")]
#[case("unix://?max-connections=7", "unix://?max-connections=7")]
#[case("unix:///run/x.sock", "unix:///run/x.sock")]
#[case("local", "local")]
#[case("local?root=/foo bar/baz", "local://?root=/foo%20bar/baz")]
#[case("local://?root=/foo%20bar", "local://?root=/foo%20bar")]
#[case("/foo/bar?trusted=true", "local:///foo/bar?trusted=true")]
#[case("/foo/../a b/", "local:///a%20b")]
#[case("/50%", "local:///50%25")]
#[case("file:///var/cache", "file:///var/cache")]
#[case("file:/var/cache", "file:///var/cache")]
#[case("https://cache.nixos.org/", "https://cache.nixos.org/")]
#[case("http://u:p%40@h:8080/x%20y?priority=1#frag", "http://u:p%40@h:8080/x%20y?priority=1")]
#[case("s3://bucket?region=eu-west-1&endpoint=h:1", "s3://bucket?endpoint=h:1&region=eu-west-1")]
#[case("ssh://localhost", "ssh://localhost")]
#[case("ssh-ng://u@h:22/nix?a=%26&b=c=d&e&a=2&f=", "ssh-ng://u@h:22/nix?a=%26&b=c%3Dd&f=")]
#[case("ssh-ng://localhost?remote-program=/x%20--y", "ssh-ng://localhost?remote-program=/x%20--y")]
#[case("ssh://h:", "ssh://h")]
#[case("ssh://::1", "ssh://[::1]")]
#[case("ssh://[::1]:22", "ssh://[::1]:22")]
#[case("ssh://u@fea5:23e1::ea8e?a=b&c=d", "ssh://u@[fea5:23e1::ea8e]?a=b&c=d")]
#[case("ssh://u@[fea5::1%25eth0]?a=b", "ssh://u@[fea5::1%25eth0]?a=b")]
#[case("ssh://u@[fea5::1%eth0]", "ssh://u@[fea5::1%25eth0]")]
#[case("ssh://fea5::1%eth0", "ssh://[fea5::1%25eth0]")]
#[case("ssh://fea5::1%25", "ssh://[fea5::1%2525]")]
#[case("dummy://", "dummy://")]
#[case("git+ssh://h/x", "git+ssh://h/x")]
fn is_rendered(#[case] text: &str, #[case] expected: &str) {
    let store = parse(text);
    assert_eq!(store.to_string(), expected);
    assert_eq!(parse(expected), store, "and reads the same again");
}

#[rstest]
#[case(
    "nonsense",
    "expected auto, daemon, local, an absolute path, or a URL such as ssh-ng://host"
)]
#[case("host:22", "expected auto, daemon, local, an absolute path, or a URL such as ssh-ng://host")]
#[case("auto://", "expected auto, daemon, local, an absolute path, or a URL such as ssh-ng://host")]
#[case("./x", "a path must be absolute, and an SSH host with a '/' be written ssh://host…")]
#[case("h/x", "a path must be absolute, and an SSH host with a '/' be written ssh://host…")]
#[case("s h://x", "the scheme may have only letters, digits, '+', '-' and '.'")]
#[case("://x", "the scheme may have only letters, digits, '+', '-' and '.'")]
#[case("ssh://", "the host is missing")]
#[case("ssh://u@", "the host is missing")]
#[case("https:///x", "the host is missing")]
#[case("ssh://@h", "the user before '@' is missing")]
#[case(
    "file://var/cache",
    "a host is given, but stores of this kind are local (a path needs three slashes)"
)]
#[case(
    "unix://run/x",
    "a host is given, but stores of this kind are local (a path needs three slashes)"
)]
#[case("ssh://a b", "the host contains ' '")]
#[case("ssh://a%0ab", "the host contains '\\n'")]
#[case("ssh://u@v@h", "the host contains '@'")]
#[case("ssh://-h", "neither host nor user may begin with '-'")]
#[case("ssh-ng://-u@h", "neither host nor user may begin with '-'")]
#[case("ssh://%2dh", "neither host nor user may begin with '-'")]
#[case("ssh://h:x", "'x' is not a port")]
#[case("ssh://h:+1", "'+1' is not a port")]
#[case("ssh://h:65536", "'65536' is not a port")]
#[case("ssh://[::1", "the host is not an IPv6 address (with a port, write [address]:port)")]
#[case("ssh://[::1]22", "the host is not an IPv6 address (with a port, write [address]:port)")]
#[case("ssh://a:b:c", "the host is not an IPv6 address (with a port, write [address]:port)")]
#[case("ssh://[1.2.3.4]", "the host is not an IPv6 address (with a port, write [address]:port)")]
#[case("ssh://h?a=%", "'%' must begin the encoding of UTF-8 in two hexadecimal digits per byte")]
#[case("ssh://h?a=%ff", "'%' must begin the encoding of UTF-8 in two hexadecimal digits per byte")]
#[case("https://h/a%2Fb", "the path contains an encoded slash or NUL")]
#[case("https://h/a b", "the path contains ' ', which must be percent-encoded")]
fn is_refused(#[case] text: &str, #[case] rule: &str) {
    let error = text.parse::<StoreReference>().unwrap_err();
    assert_eq!(error.to_string(), format!("'{text}' is not a store: {rule}"));
}

#[test]
fn parts() {
    let store = parse("ssh-ng://nix@builder:2222/x?remote-store=/y");
    assert_eq!(*store.scheme(), Scheme::SshNg);
    let authority = store.authority().unwrap();
    assert_eq!(authority.user.as_deref(), Some("nix"));
    assert_eq!(authority.host, Host::Name("builder".to_owned()));
    assert_eq!(authority.port, Some(2222));
    assert_eq!((store.path(), store.param("remote-store")), ("/x", Some("/y")));
    let address = &parse("ssh://[fe80::1%25e]").authority().unwrap().host.to_string();
    assert_eq!(address, "fe80::1%e", "as ssh takes it");
}

#[rstest]
#[case("ssh://localhost", true)]
#[case("ssh-ng://localhost?remote-program=x", true)]
#[case("ssh://u@localhost", false)]
#[case("ssh://localhost:22", false)]
#[case("ssh://LOCALHOST", false)]
#[case("ssh://127.0.0.1", false)]
#[case("https://localhost", false)]
fn localhost_needs_no_ssh(#[case] text: &str, #[case] expected: bool) {
    assert_eq!(parse(text).is_without_ssh(), expected);
}

#[test]
fn passwords_are_not_shown_by_accident() {
    assert!(!format!("{:?}", parse("http://u:secret@h")).contains("secret"));
    let error = "http://u:secret@h:x/".parse::<StoreReference>().unwrap_err();
    assert_eq!(error.to_string(), "'http://u:…@h:x/' is not a store: 'x' is not a port");
}
