//! Who wants something of the daemon itself, by the way of its clients.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use drover_daemon::{
    Client, ClientOptions, ClientTrust, Controls, Limits, Machines, Named, Naming, Need, Outlook,
    Policy, Server, Wait, control_opening, grant, introduction, need, question,
};
use drover_store::AfterFailure;
use support::{client, world};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;

/// Says who it is talking with, and what that one has said.
struct Echo;

#[async_trait]
impl Controls for Echo {
    async fn converse(
        &self,
        client: Client,
        named: Named,
        mut input: Box<dyn AsyncRead + Send + Unpin>,
        mut output: Box<dyn AsyncWrite + Send + Unpin>,
    ) {
        let mut said = String::new();
        input.read_to_string(&mut said).await.unwrap();
        let user = client.user.unwrap_or_default();
        output.write_all(format!("{user} {named:?}: {said}").as_bytes()).await.unwrap();
        output.shutdown().await.unwrap();
    }
}

fn server() -> Server {
    let world = world();
    let (_, policy) = watch::channel(Arc::new(Policy::default()));
    let (keeper, realiser) = (world.keeper.clone(), world.realiser.clone());
    let server = Server::new(keeper, realiser, policy, Limits::default(), "2.34.8".to_owned());
    server.with_controls(Arc::new(Echo))
}

/// What a server answers to somebody who says all this at once.
async fn answer(server: &Server, client: Client, said: &[u8]) -> String {
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let (input, output) = tokio::io::split(far);
    near.write_all(said).await.unwrap();
    near.shutdown().await.unwrap();
    let mut answer = String::new();
    let reading = near.read_to_string(&mut answer);
    let (served, read) = tokio::join!(server.serve(client, input, output), reading);
    served.unwrap();
    read.unwrap();
    answer
}

#[tokio::test]
async fn what_follows_is_for_the_daemon_itself() {
    let server = server();
    let plain = [control_opening(), b"how are you".to_vec()].concat();
    let named = [introduction("alice"), plain.clone()].concat();
    let (trusted, untrusted) = (client(ClientTrust::Trusted), client(ClientTrust::NotTrusted));
    // who may name those who come as this user, without being trusted with anything else
    let twice = [introduction("alice"), introduction("bob"), plain.clone()].concat();
    let naming = Client { naming: Naming::Counts, ..untrusted.clone() };
    for (client, said, expected) in [
        (&trusted, &plain, "test ByUser: how are you"),
        (&trusted, &named, "test/alice Itself: how are you"),
        // a name that somebody takes without being believed is nobody's
        (&untrusted, &named, "test ByUser: how are you"),
        (&naming, &named, "test/alice Itself: how are you"),
        // who lets it in has named it, and it can't have another
        (&naming, &twice, "test/alice Itself: how are you"),
    ] {
        assert_eq!(answer(&server, client.clone(), said).await, expected);
    }
}

#[tokio::test]
async fn a_server_that_has_nothing_to_say_says_so() {
    let said = answer(&world().server, client(ClientTrust::Trusted), &control_opening()).await;
    assert!(said.starts_with("{\"refused\":\"no daemon of drover schedules builds here"), "{said}");
}

/// The rules are those of a connection: what a client may not set is told, and doesn't count.
#[test]
fn who_has_gone_may_set_what_who_is_there_may() {
    let options = |name: &str, value: &str| ClientOptions {
        keep_failed: false,
        keep_going: true,
        fallback: false,
        verbosity: 3,
        max_jobs: 1,
        max_silent_time: 0,
        verbose_build: true,
        cores: 3,
        use_substitutes: true,
        overrides: [(name.to_owned(), value.to_owned())].into(),
    };
    let policy = Policy::default();
    let builders = options("builders", "ssh-ng://mine");
    let granted = grant(&policy, &client(ClientTrust::NotTrusted), &builders);
    assert!(granted.warnings.iter().any(|text| text.contains("'builders'")), "{granted:?}");
    assert!(!granted.settings.build.overrides.contains_key("builders"));
    assert_eq!(granted.settings.client.as_deref(), Some("test"));
    assert_eq!(granted.settings.after_failure, AfterFailure::KeepGoing);
    assert_eq!(granted.settings.build.cores, Some(3));
    let granted = grant(&policy, &client(ClientTrust::Trusted), &builders);
    assert_eq!(granted.settings.build.overrides["builders"], "ssh-ng://mine");
    assert!(granted.warnings.is_empty(), "{granted:?}");
}

/// Machines of which nothing is known, however long is waited.
struct Silent;

#[async_trait]
impl Machines for Silent {
    async fn outlook(&self, need: &Need, patience: Duration) -> Outlook {
        let trouble = format!("nothing for {} after {} ms", need.system, patience.as_millis());
        Outlook::Unknown { wait: Wait::Worthwhile, trouble }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(77)
    }
}

/// A build waits for as long as the machines may take; a question is answered at once.
#[tokio::test]
async fn builds_wait_for_machines_as_long_as_these_may_take() {
    let server = server().with_machines(Arc::new(Silent));
    let wanted = Need { system: "x86_64-linux".to_owned(), ..Need::default() };
    let trusted = || client(ClientTrust::Trusted);
    let told = answer(&server, trusted(), &need(&wanted)).await;
    assert_eq!(told, "error: nothing for x86_64-linux after 77000 ms\n");
    let told = answer(&server, trusted(), &question(&wanted)).await;
    assert!(told.contains("nothing for x86_64-linux after 20 ms"), "{told:?}");
}
