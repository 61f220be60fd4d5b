//! Bytes that a peer might send to do harm: each is refused by name, and nothing is allocated.

use std::collections::BTreeSet;

use drover_core::StoreDir;
use drover_wire::{
    DecodeError, Decoder, Dialect, Encoder, LogMessage, MAX_BYTES, MAX_COUNT, MAX_TEXT, Request,
    Response, Version, WORKER_LATEST, read_client_version, read_frame_header,
    read_serve_server_hello, read_server_hello, read_server_info,
};
use rstest::rstest;

fn dialect() -> Dialect {
    Dialect { store_dir: StoreDir::default(), version: WORKER_LATEST, features: BTreeSet::new() }
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// KiB by which the process may grow meanwhile: other tests run in it. What is announced is far more.
const ALLOWANCE: u64 = 16 * 1024;

/// The most memory that this process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[rstest]
#[case::half(1 << 63)]
#[case::wraps_with_padding(u64::MAX - 7)]
#[case::all(u64::MAX)]
#[case::one_more_than_allowed(MAX_BYTES as u64 + 1)]
fn huge_lengths_are_refused_and_cost_nothing(#[case] len: u64) {
    let before = peak();
    let mut wire = numbers(&[len]);
    wire.resize(4096, 0);
    let too_long = |max| DecodeError::TooLong { len, max };
    assert_eq!(Decoder::new(&wire).bytes(MAX_BYTES), Err(too_long(MAX_BYTES)));
    assert_eq!(Decoder::new(&wire).message(), Err(too_long(MAX_BYTES)));
    assert_eq!(Decoder::new(&wire).text(), Err(too_long(MAX_TEXT)));
    assert_eq!(too_long(MAX_TEXT).to_string(), format!("string length {len} exceeds limit 65536"));
    let mut line = numbers(&[0x6f6c_6d67]);
    line.extend(&wire);
    assert_eq!(LogMessage::decode(&mut Decoder::new(&line), 38), Err(too_long(MAX_BYTES)));
    assert!(peak().saturating_sub(before) < ALLOWANCE, "{before} KiB before, {} KiB after", peak());
}

#[test]
fn a_length_that_is_allowed_is_waited_for_and_not_allocated() {
    let before = peak();
    let wire = numbers(&[MAX_BYTES as u64, 0, 0]);
    let missing = MAX_BYTES - 16;
    assert_eq!(Decoder::new(&wire).message(), Err(DecodeError::Incomplete { missing }));
    let wire = numbers(&[MAX_COUNT as u64, 0, 0]);
    let listed: Result<Vec<u64>, _> = Decoder::new(&wire).list(|from| from.number());
    assert_eq!(listed, Err(DecodeError::Incomplete { missing: MAX_COUNT * 8 - 16 }));
    assert!(peak().saturating_sub(before) < ALLOWANCE, "{before} KiB before, {} KiB after", peak());
}

#[rstest]
#[case(MAX_COUNT as u64 + 1)]
#[case(u64::MAX / 8)]
#[case(u64::MAX)]
fn huge_counts_are_refused(#[case] count: u64) {
    let mut wire = numbers(&[count]);
    wire.resize(4096, 0);
    let what = "store paths";
    let expected = Err(DecodeError::TooMany { what, count, max: MAX_COUNT });
    assert_eq!(Decoder::new(&wire).paths(&StoreDir::default()), expected);
    let response =
        Response::decode(&mut Decoder::new(&wire), &dialect(), &Request::QueryAllValidPaths);
    assert_eq!(response.map(drop), expected.map(drop));
}

/// A long list that comes in small packets is begun anew a few times, not once for each packet.
#[test]
fn a_long_list_is_asked_for_in_few_steps() {
    let store_dir = StoreDir::default();
    let mut out = Encoder::new();
    let count = 20_000u64;
    out.number(count);
    for number in 0..count {
        out.text(&format!("/nix/store/{number:032}-a-name-of-the-usual-length-1.2.3"));
    }
    let wire = out.into_bytes();
    let (mut have, mut steps) = (8, 0);
    loop {
        match Decoder::new(&wire[..have]).paths(&store_dir) {
            Ok(paths) => break assert_eq!(paths.len() as u64, count),
            Err(DecodeError::Incomplete { missing }) => have += missing,
            Err(error) => panic!("{error}"),
        }
        steps += 1;
    }
    assert!(steps < 40, "{steps} steps");
}

#[rstest]
#[case::mode(numbers(&[9, 0, 3]), "invalid build mode 3")]
#[case::verbosity(numbers(&[19, 0, 0, 0, 999, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "invalid verbosity 999")]
#[case::garbage(numbers(&[20, 4, 0]), "invalid garbage collection action 4")]
fn numbers_that_stand_for_nothing_are_named(#[case] wire: Vec<u8>, #[case] message: &str) {
    let error = Request::decode(&mut Decoder::new(&wire), &dialect()).expect_err("refused");
    assert_eq!(error.to_string(), message);
}

#[rstest]
#[case::kind(numbers(&[1]), "invalid message type 1")]
#[case::field(numbers(&[0x5253_4c54, 1, 101, 1, 7]), "invalid field type 7")]
#[case::position(numbers(&[0x6378_7470, 0, 0, 0, 0, 1]), "invalid position of an error 1")]
fn messages_that_stand_for_nothing_are_named(#[case] mut wire: Vec<u8>, #[case] message: &str) {
    wire.resize(wire.len() + 64, 0);
    let error = LogMessage::decode(&mut Decoder::new(&wire), 38).expect_err("refused");
    assert_eq!(error.to_string(), message);
}

#[test]
fn a_status_that_stands_for_nothing_is_named() {
    let error = drover_wire::BuildResult::decode(&mut Decoder::new(&numbers(&[15, 0])), &dialect());
    assert_eq!(error.expect_err("refused").to_string(), "invalid build status 15");
    let error = read_server_info(&mut Decoder::new(&numbers(&[0, 3])), WORKER_LATEST);
    assert_eq!(error.expect_err("refused").to_string(), "invalid trust 3");
}

#[test]
fn frames_are_bounded() {
    let four_gib = numbers(&[1 << 32]);
    let error = read_frame_header(&mut Decoder::new(&four_gib)).expect_err("refused");
    assert_eq!(error.to_string(), "invalid frame length 4294967296");
}

const MAGIC: u64 = 0x6478_696f;

#[rstest]
#[case::same(0x126, Ok(38))]
#[case::newer(0x1ff, Ok(38))]
#[case::oldest(0x115, Ok(21))]
#[case::too_old(
    0x109,
    Err("peer speaks worker protocol 1.9; 1.21 or newer of the same major version is needed")
)]
#[case::other_major(
    0x200,
    Err("peer speaks worker protocol 2.0; 1.21 or newer of the same major version is needed")
)]
#[case::nonsense(0xffff_ffff_0001_0126, Err("invalid protocol version 18446744069414650150"))]
fn versions(#[case] number: u64, #[case] expected: Result<u8, &str>) {
    let wire = numbers(&[MAGIC, number]);
    let told = |result: Result<Version, DecodeError>| {
        result.map(|version| version.minor).map_err(|error| error.to_string())
    };
    let expected = expected.map_err(str::to_owned);
    let server = read_server_hello(&mut Decoder::new(&wire), WORKER_LATEST);
    assert_eq!(told(server), expected);
    let client = read_client_version(&mut Decoder::new(&wire[8..]), WORKER_LATEST);
    assert_eq!(told(client), expected);
}

#[test]
fn another_magic_is_no_protocol() {
    let wire = b"Welcome to build01!\n\0\0\0\0".to_vec();
    let magic = Err(DecodeError::Magic { found: u64::from_le_bytes(*b"Welcome ") });
    assert_eq!(read_server_hello(&mut Decoder::new(&wire), WORKER_LATEST), magic);
    assert_eq!(read_serve_server_hello(&mut Decoder::new(&wire)), magic);
}
