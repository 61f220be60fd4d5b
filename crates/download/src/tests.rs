//! Downloads from real servers on this machine, most of which misbehave.

use std::io;
use std::time::Duration;

use drover_testkit::{Answer, Scheme, WebServer};
use rstest::rstest;

use crate::{Certificates, Client, DownloadError, Netrc, Proxies, Receiver, Retries, Settings};

/// Keeps what comes, up to a limit.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    begun: u32,
    again: u32,
    limit: Option<usize>,
}

impl Receiver for Kept {
    fn begin(&mut self) -> io::Result<()> {
        self.bytes.clear();
        self.begun += 1;
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        match self.limit {
            Some(limit) if limit < self.bytes.len() => Err(io::Error::other("enough")),
            _ => Ok(()),
        }
    }

    fn trying_again(&mut self, _after: &DownloadError, _pause: Duration) {
        self.again += 1;
    }
}

fn settings() -> Settings {
    let retries = Retries {
        attempts: 3,
        pause: Duration::from_millis(1),
        pause_when_busy: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
    };
    Settings { retries, ..Settings::default() }
}

async fn download(settings: Settings, url: &str) -> (Kept, Result<(), DownloadError>) {
    let mut kept = Kept::default();
    let client = Client::new(settings).unwrap();
    let done = client.download(url, &mut kept).await;
    (kept, done)
}

fn text() -> Vec<u8> {
    (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
}

#[rstest]
#[case::whole(Answer::Whole(text()), 1, 0)]
#[case::empty(Answer::Whole(Vec::new()), 1, 0)]
#[case::busy(Answer::Busy(2, text()), 1, 2)]
#[case::resumed(Answer::Halves(text()), 1, 1)]
#[case::begun_anew(Answer::HalfAndWhole(text()), 2, 1)]
#[tokio::test]
async fn files_come_whole(#[case] answer: Answer, #[case] begun: u32, #[case] again: u32) {
    let server = WebServer::start(Scheme::Http).unwrap();
    let (Answer::Whole(expected)
    | Answer::Busy(_, expected)
    | Answer::Halves(expected)
    | Answer::HalfAndWhole(expected)) = answer.clone()
    else {
        unreachable!()
    };
    let (kept, done) = download(settings(), &server.on("/file", answer)).await;
    done.unwrap();
    assert!(kept.bytes == expected, "{} bytes", kept.bytes.len());
    assert_eq!((kept.begun, kept.again), (begun, again));
}

#[tokio::test]
async fn the_rest_is_asked_for_where_it_broke() {
    let server = WebServer::start(Scheme::Http).unwrap();
    let url = server.on("/file", Answer::Halves(b"0123456789".to_vec()));
    let (kept, done) = download(settings(), &url).await;
    done.unwrap();
    assert_eq!(kept.bytes, b"0123456789");
    let ranges: Vec<_> = server.asked().into_iter().map(|it| it.range).collect();
    assert_eq!(ranges, [None, Some("bytes=5-".to_owned())]);
}

#[rstest]
#[case::absent(Answer::Status(404), 1, "HTTP status 404")]
#[case::forbidden(Answer::Status(403), 1, "HTTP status 403")]
#[case::broken(Answer::Status(500), 3, "HTTP status 500")]
#[case::too_busy(Answer::Status(503), 3, "HTTP status 503")]
#[case::no_file(Answer::Redirect("file:///etc/passwd".to_owned()), 1, "redirected to 'file:///etc/passwd'")]
#[case::no_url(Answer::Redirect("http://".to_owned()), 1, "redirected to 'http://'")]
#[case::in_circles(Answer::Redirect("/file".to_owned()), 11, "redirected more than 10 times")]
#[tokio::test]
async fn what_fails_is_named(#[case] answer: Answer, #[case] times: usize, #[case] what: &str) {
    let server = WebServer::start(Scheme::Http).unwrap();
    let url = server.on("/file", answer);
    let (kept, done) = download(settings(), &url).await;
    let said = done.unwrap_err().to_string();
    assert!(said.contains(what) && said.contains(&url), "{said}");
    assert_eq!((kept.begun, server.asked().len()), (0, times));
}

#[tokio::test]
async fn who_says_nothing_is_given_up() {
    let server = WebServer::start(Scheme::Http).unwrap();
    let url = server.on("/file", Answer::Stall);
    let stalled_timeout = Some(Duration::from_secs(1));
    let (_, done) = download(Settings { stalled_timeout, ..settings() }, &url).await;
    assert!(matches!(done, Err(DownloadError::Stalled { .. })), "{done:?}");
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_receiver_may_have_enough() {
    let server = WebServer::start(Scheme::Http).unwrap();
    let url = server.on("/file", Answer::Endless);
    let mut kept = Kept { limit: Some(1000), ..Kept::default() };
    let done = Client::new(settings()).unwrap().download(&url, &mut kept).await;
    assert!(matches!(done, Err(DownloadError::Receiver { .. })), "{done:?}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn nobody_there() {
    // nobody listens, and nobody else gets it
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let (kept, done) = download(settings(), &format!("http://localhost:{port}/x")).await;
    let said = done.unwrap_err().to_string();
    assert!(said.contains("refused"), "{said}");
    assert_eq!(kept.again, 2);
}

/// T43.
#[rstest]
#[case::its_own(|own: &str, _: &str| own.to_owned(), Ok(()))]
#[case::among_others(|own: &str, other: &str| format!("# text\n{other}{own}"), Ok(()))]
#[case::another(|_: &str, other: &str| other.to_owned(), Err("certificate"))]
#[case::none(|_: &str, _: &str| String::new(), Err("ssl-cert-file"))]
#[case::no_certificate(|_: &str, _: &str| "x".to_owned(), Err("no certificate in it"))]
#[tokio::test]
async fn servers_are_verified(
    #[case] choose: fn(&str, &str) -> String,
    #[case] expected: Result<(), &str>,
) {
    let server = WebServer::start(Scheme::Https).unwrap();
    let other = WebServer::start(Scheme::Https).unwrap();
    let url = server.on("/file", Answer::Whole(text()));
    let certificates = choose(server.authority(), other.authority());
    let certificates = Certificates(certificates.into_bytes());
    let (kept, done) = download(Settings { certificates, ..settings() }, &url).await;
    match (done, expected) {
        (Ok(()), Ok(())) => assert!(kept.bytes == text()),
        (Err(error), Err(what)) => {
            let said = error.to_string();
            assert!(said.contains(what), "{said}");
            // nothing that isn't trusted is asked for anything, and once is enough
            assert_eq!((server.asked().len(), kept.again), (0, 0));
        }
        (done, _) => panic!("{done:?}"),
    }
}

/// A certificate counts for the names in it only.
#[tokio::test]
async fn names_are_verified() {
    let server = WebServer::start(Scheme::Https).unwrap();
    let url = server.on("/file", Answer::Whole(text())).replace("localhost", "127.0.0.1");
    let certificates = Certificates(server.authority().into());
    let (_, done) = download(Settings { certificates, ..settings() }, &url).await;
    let said = done.unwrap_err().to_string();
    assert!(said.contains("not valid for name"), "{said}");
    assert_eq!(server.asked().len(), 0);
}

#[rstest]
#[case::by_netrc("machine localhost login alice password secret", "", true)]
#[case::by_url("", "alice:secret@", true)]
#[case::another_machine("machine other login alice password secret", "", false)]
#[tokio::test]
async fn credentials_go_to_their_host(
    #[case] netrc: &str,
    #[case] user: &str,
    #[case] expected: bool,
) {
    let server = WebServer::start(Scheme::Http).unwrap();
    let secret = Answer::Secret("Basic YWxpY2U6c2VjcmV0".to_owned(), b"x".to_vec());
    let url = server.on("/file", secret).replace("://", &format!("://{user}"));
    let (_, done) = download(Settings { netrc: Netrc::parse(netrc), ..settings() }, &url).await;
    assert_eq!(done.is_ok(), expected, "{done:?}");
    if let Err(error) = done {
        assert!(error.to_string().contains("401"), "{error}");
    }
}

/// Neither to another host, nor where everybody could read them on the way.
#[tokio::test]
async fn credentials_go_nowhere_else() {
    let netrc = Netrc::parse("default login alice password secret");
    let (plain, secure) =
        (WebServer::start(Scheme::Http).unwrap(), WebServer::start(Scheme::Https).unwrap());
    let there = plain.on("/there", Answer::Whole(b"x".to_vec()));
    let certificates = Certificates(secure.authority().into());
    let url = secure.on("/file", Answer::Redirect(there.clone()));
    let (_, done) = download(Settings { netrc, certificates, ..settings() }, &url).await;
    done.unwrap();
    assert!(secure.asked()[0].authorization.is_some());
    assert_eq!(plain.asked()[0].authorization, None);
    let first = WebServer::start(Scheme::Http).unwrap();
    let url = first.on("/file", Answer::Redirect(there)).replace("://", "://alice:secret@");
    let (_, done) = download(settings(), &url).await;
    done.unwrap();
    assert!(first.asked()[0].authorization.is_some());
    assert_eq!(plain.asked()[1].authorization, None);
}

#[tokio::test]
async fn passwords_are_not_told() {
    let server = WebServer::start(Scheme::Http).unwrap();
    let url = server.url("/absent").replace("://", "://alice:secret@");
    let (_, done) = download(settings(), &url).await;
    let error = done.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn proxies_are_asked() {
    let proxy = WebServer::start(Scheme::Http).unwrap();
    let server = WebServer::start(Scheme::Http).unwrap();
    let url = server.on("/file", Answer::Whole(b"direct".to_vec()));
    proxy.on(&url, Answer::Whole(b"by the proxy".to_vec()));
    for (exceptions, expected) in [("", "by the proxy"), ("localhost", "direct")] {
        let proxies = Proxies::of_variables(|name| match name {
            "all_proxy" => Some(proxy.url("")),
            "no_proxy" => Some(exceptions.to_owned()),
            _ => None,
        });
        let (kept, done) = download(Settings { proxies, ..settings() }, &url).await;
        done.unwrap();
        assert_eq!(String::from_utf8_lossy(&kept.bytes), expected);
    }
}

#[rstest]
#[case::ftp("ftp://localhost/x", "'ftp' is none of")]
#[case::s3("s3://bucket/x", "'s3' is none of")]
#[case::no_url("x", "is not a URL")]
#[case::no_file("file:///does/not/exist", "cannot read")]
#[case::other_host("file://example.org/etc/passwd", "no file of this machine")]
#[tokio::test]
async fn what_cannot_be_asked_for(#[case] url: &str, #[case] what: &str) {
    let (_, done) = download(settings(), url).await;
    let said = done.unwrap_err().to_string();
    assert!(said.contains(what), "{said}");
}

#[tokio::test]
async fn a_file_of_this_machine() {
    let file = tempfile::NamedTempFile::with_suffix(" x").unwrap();
    std::fs::write(file.path(), text()).unwrap();
    let url = format!("file://{}", file.path().display()).replace(' ', "%20");
    let (kept, done) = download(settings(), &url).await;
    done.unwrap();
    assert!(kept.bytes == text());
}
