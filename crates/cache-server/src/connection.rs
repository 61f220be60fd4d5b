//! Clients, from their coming to their going.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::guarded::Guarded;
use crate::listener::{Listener, Peer};
use crate::server::CacheServer;

/// Rest after the system could not take a client in, mostly for want of file descriptors.
const OUT_OF_BREATH: Duration = Duration::from_millis(100);
/// Bytes that the head of a request may have, and of an answer that wait to be taken.
const BUFFER: usize = 64 * 1024;
/// Header lines of a request.
const MAX_HEADERS: usize = 64;

impl CacheServer {
    /// Serves clients until `stop`, then sees to the end of what is being sent, for as long as is set.
    /// Dropping the future ends all of them at once.
    pub async fn run(
        &self,
        listener: Listener,
        tls: Option<Arc<ServerConfig>>,
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = pin!(stop);
        let mut clearing = pin!(self.clear());
        let mut clients = JoinSet::new();
        let ending = CancellationToken::new();
        let places = Arc::new(Semaphore::new(self.settings().connections));
        let acceptor = tls.map(TlsAcceptor::from);
        loop {
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (listener.accept().await, place)
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = &mut clearing => {}
                Some(ended) = clients.join_next(), if !clients.is_empty() => tell(ended),
                (accepted, place) = next => match accepted {
                    Ok(peer) => {
                        let visit = Visit {
                            server: self.clone(),
                            acceptor: acceptor.clone(),
                            ending: ending.clone(),
                        };
                        clients.spawn(async move {
                            visit.receive(peer).await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot take a client in");
                        sleep(OUT_OF_BREATH).await;
                    }
                },
            }
        }
        drop(listener);
        ending.cancel();
        let drained = async { while clients.join_next().await.is_some() {} };
        if timeout(self.settings().drain, drained).await.is_err() {
            tracing::warn!(clients = clients.len(), "ending what did not end in time");
        }
        clients.shutdown().await;
    }
}

fn tell(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection was cut short");
    }
}

/// One client.
struct Visit {
    server: CacheServer,
    acceptor: Option<TlsAcceptor>,
    ending: CancellationToken,
}

impl Visit {
    async fn receive(self, peer: Peer) {
        let _open = self.server.metrics().opened();
        match (peer, &self.acceptor) {
            (Peer::Tcp(stream), None) => self.speak(stream).await,
            (Peer::Unix(stream), None) => self.speak(stream).await,
            (Peer::Tcp(stream), Some(acceptor)) => {
                let acceptor = acceptor.clone();
                self.greet(acceptor, stream).await;
            }
            (Peer::Unix(stream), Some(acceptor)) => {
                let acceptor = acceptor.clone();
                self.greet(acceptor, stream).await;
            }
        }
    }

    async fn greet<S>(self, acceptor: TlsAcceptor, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match timeout(self.server.settings().idle, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream).await,
            Ok(Err(error)) => tracing::debug!("no TLS came about: {error}"),
            Err(_) => tracing::debug!("no TLS came about in time"),
        }
    }

    async fn speak<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let idle = self.server.settings().idle;
        let server = self.server;
        let service = service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(idle)
            .max_buf_size(BUFFER)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(Guarded::new(stream, idle)), service);
        let mut connection = pin!(connection);
        let spoken = tokio::select! {
            spoken = connection.as_mut() => spoken,
            () = self.ending.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = spoken {
            tracing::debug!("a connection ended: {error}");
        }
    }
}
