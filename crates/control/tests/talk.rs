//! Questions and answers over a real socket.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use drover_control::{
    Answer, Caller, ControlError, Conversation, MAX_REQUEST, MachineReport, Power, Request,
    Responder, Server, Socket, ask, socket_beside,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::UCred;
use tokio::task::JoinSet;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Knows one machine.
struct Oracle {
    power: Result<Power, String>,
}

#[async_trait]
impl Responder for Oracle {
    async fn admit(&self, credentials: UCred) -> Result<Caller, String> {
        let power = self.power.clone()?;
        Ok(Caller { user: credentials.uid().to_string(), power })
    }

    async fn answer(&self, _: &Caller, request: Request) -> Answer {
        match request {
            Request::Machines => {
                let machine = MachineReport { name: "one".to_owned(), ..MachineReport::default() };
                Answer::Machines(vec![machine])
            }
            Request::Drain { machine } if machine == "one" => Answer::Done,
            // longer than an answer may be
            Request::Log { .. } => Answer::Refused("x".repeat(33 << 20)),
            Request::Explain { .. } => std::future::pending().await,
            _ => Answer::Refused("never heard of it".to_owned()),
        }
    }
}

struct Daemon {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    tasks: JoinSet<()>,
}

impl Daemon {
    fn new(power: Result<Power, String>) -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        let socket = socket_beside(&folder.path().join("socket"));
        let server = Server::new(Socket::bind(&socket).unwrap(), Arc::new(Oracle { power }));
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run());
        Daemon { _folder: folder, socket, tasks }
    }

    async fn ask(&self, request: Request) -> Result<Answer, ControlError> {
        ask(&self.socket, &request, LIMIT).await
    }
}

#[track_caller]
fn refused(answer: Result<Answer, ControlError>, words: &str) {
    match answer {
        Err(ControlError::Refused { reason }) => assert!(reason.contains(words), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn questions_are_answered_and_orders_done() {
    let daemon = Daemon::new(Ok(Power::Order));
    let Answer::Machines(machines) = daemon.ask(Request::Machines).await.unwrap() else {
        panic!("another answer")
    };
    assert_eq!(machines.first().unwrap().name, "one");
    let drain = |machine: &str| Request::Drain { machine: machine.to_owned() };
    assert_eq!(daemon.ask(drain("one")).await.unwrap(), Answer::Done);
    refused(daemon.ask(drain("two")).await, "never heard of it");
    let mode = fs_err::metadata(&daemon.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666, "who may ask is decided for each");
}

#[tokio::test]
async fn orders_are_for_those_who_may() {
    let daemon = Daemon::new(Ok(Power::Ask));
    assert!(daemon.ask(Request::Machines).await.is_ok());
    for order in [
        Request::Drain { machine: "one".to_owned() },
        Request::Resume { machine: "one".to_owned() },
    ] {
        refused(daemon.ask(order).await, "'trusted-users'");
    }
    let closed = Daemon::new(Err("user 'ann' is not allowed".to_owned()));
    refused(closed.ask(Request::Machines).await, "'ann' is not allowed");
}

#[tokio::test]
async fn answers_are_bounded() {
    let daemon = Daemon::new(Ok(Power::Ask));
    refused(daemon.ask(Request::Log { build: "1".to_owned() }).await, "the answer is too long");
}

#[tokio::test]
async fn one_connection_takes_several_requests_and_what_is_no_request() {
    let daemon = Daemon::new(Ok(Power::Ask));
    let mut stream = UnixStream::connect(&daemon.socket).await.unwrap();
    let asked = "\"machines\"\nnot json\n{\"dance\":{}}\n\"machines\"\n";
    stream.write_all(asked.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    let answers: Vec<&str> = answers.lines().collect();
    assert!(answers[0].starts_with(r#"{"machines":[{"name":"one","#), "{answers:?}");
    for answer in &answers[1..3] {
        assert!(answer.starts_with(r#"{"refused":"the request can't be understood: "#), "{answer}");
    }
    assert_eq!((answers.len(), answers[3]), (4, answers[0]));
}

#[tokio::test]
async fn a_request_without_an_end_is_refused() {
    let daemon = Daemon::new(Ok(Power::Ask));
    let mut stream = UnixStream::connect(&daemon.socket).await.unwrap();
    stream.write_all(&vec![b'x'; MAX_REQUEST]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("65536 bytes at most"), "{answer}");
}

#[tokio::test]
async fn one_user_has_a_share_of_the_connections() {
    let daemon = Daemon::new(Ok(Power::Ask));
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut conversation = Conversation::connect(&daemon.socket).await.unwrap();
        conversation.ask(&Request::Machines, LIMIT).await.unwrap();
        held.push(conversation);
    }
    refused(daemon.ask(Request::Machines).await, "16 things at once already");
    // those that it has go on
    held[0].ask(&Request::Machines, LIMIT).await.unwrap();
    drop(held);
    while daemon.ask(Request::Machines).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_too_long_to_ask_is_not_sent() {
    let daemon = Daemon::new(Ok(Power::Ask));
    let request = Request::Log { build: "x".repeat(MAX_REQUEST) };
    let answer = daemon.ask(request).await;
    assert!(matches!(answer, Err(ControlError::TooLong { .. })), "{answer:?}");
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let daemon = Daemon::new(Ok(Power::Ask));
    let request = Request::Explain { build: "1".to_owned() };
    let answer = ask(&daemon.socket, &request, Duration::from_millis(50)).await;
    assert!(matches!(answer, Err(ControlError::Silent { .. })), "{answer:?}");
}

#[tokio::test]
async fn the_socket_goes_with_its_server_and_takes_the_place_of_a_dead_one() {
    let mut daemon = Daemon::new(Ok(Power::Ask));
    let error = Socket::bind(&daemon.socket).unwrap_err();
    assert!(error.to_string().contains("another daemon listens there"), "{error}");
    daemon.tasks.shutdown().await;
    assert!(!daemon.socket.exists());
    let gone = daemon.ask(Request::Machines).await;
    assert!(matches!(gone, Err(ControlError::NobodyThere { .. })), "{gone:?}");
    // left by one that was killed
    drop(std::os::unix::net::UnixListener::bind(&daemon.socket).unwrap());
    drop(Socket::bind(&daemon.socket).unwrap());
    fs_err::write(&daemon.socket, "").unwrap();
    let error = Socket::bind(&daemon.socket).unwrap_err();
    assert!(error.to_string().contains("something else than a socket"), "{error}");
    let long = daemon.socket.with_file_name("x".repeat(200));
    assert!(Socket::bind(&long).is_err());
    assert!(!long.exists());
}

#[tokio::test]
async fn what_is_no_daemon_of_drover_is_not_understood() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&socket)?;
    let speak = async {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(b"HTTP/1.1 400 Bad Request\n").await?;
        io::Result::Ok(stream)
    };
    let (answer, spoke) = tokio::join!(ask(&socket, &Request::Machines, LIMIT), speak);
    spoke?;
    assert!(matches!(answer, Err(ControlError::NotUnderstood { .. })), "{answer:?}");
    Ok(())
}

/// Who is refused hears why, also where the daemon has closed before anything was asked.
#[tokio::test]
async fn a_refusal_that_comes_before_the_question_is_heard() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&socket)?;
    let connecting = Conversation::connect(&socket);
    let (conversation, accepted) = tokio::join!(connecting, listener.accept());
    let (mut stream, _) = accepted?;
    stream.write_all(b"{\"refused\":\"you are not allowed\"}\n").await?;
    drop(stream);
    refused(conversation.unwrap().ask(&Request::Machines, LIMIT).await, "you are not allowed");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_lost_connection() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&socket)?;
    let speak = async {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(b"{\"machines\":[").await
    };
    let (answer, spoke) = tokio::join!(ask(&socket, &Request::Machines, LIMIT), speak);
    spoke?;
    assert!(matches!(answer, Err(ControlError::Lost { .. })), "{answer:?}");
    Ok(())
}
