//! A client that speaks any version, by the codecs of `drover-wire`.

use std::collections::BTreeSet;
use std::io;

use bytes::{Buf as _, BytesMut};
use drover_core::StoreDir;
use drover_daemon::{ClientTrust, DaemonError, Server};
use drover_wire::{
    DecodeError, Decoder, Dialect, Encoder, FRAME_END, LogMessage, RemoteError, Request, Response,
    ServerInfo, Version, client_hello, exchanges_features, frame_header, read_features,
    read_server_hello, read_server_info, write_client_end, write_features,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

pub struct Peer {
    pub stream: UnixStream,
    pub buffer: BytesMut,
    pub dialect: Dialect,
    pub info: ServerInfo,
    /// What was told before answers.
    pub log: Vec<LogMessage>,
    pub serving: JoinSet<Result<(), DaemonError>>,
}

impl Peer {
    pub async fn connect(server: &Server, trust: ClientTrust, minor: u8) -> Peer {
        Peer::connect_with(server, trust, minor, &[]).await
    }

    pub async fn connect_with(
        server: &Server,
        trust: ClientTrust,
        minor: u8,
        features: &[&str],
    ) -> Peer {
        let (stream, theirs) = UnixStream::pair().expect("a pair");
        let (server, mut serving) = (server.clone(), JoinSet::new());
        serving.spawn(async move {
            let (input, output) = theirs.into_split();
            server.serve(super::client(trust), input, output).await
        });
        let dialect = Dialect {
            store_dir: StoreDir::default(),
            version: Version { major: 1, minor },
            features: BTreeSet::new(),
        };
        let info = ServerInfo { nix_version: None, trust: drover_store::Trust::Unknown };
        let buffer = BytesMut::new();
        let mut peer = Peer { stream, buffer, dialect, info, log: Vec::new(), serving };
        peer.greet(features).await;
        peer
    }

    pub async fn greet(&mut self, features: &[&str]) {
        let version = self.dialect.version;
        self.send(&client_hello(version)).await;
        let agreed = self.read(|from| read_server_hello(from, version)).await.expect("a hello");
        assert_eq!(agreed, version, "the older of both");
        if exchanges_features(version) {
            let mut out = Encoder::new();
            write_features(&mut out, features);
            self.send(&out.into_bytes()).await;
            self.dialect.features =
                self.read(|from| read_features(from, features)).await.expect("features");
        }
        let mut out = Encoder::new();
        write_client_end(&mut out);
        self.send(&out.into_bytes()).await;
        self.info = self.read(|from| read_server_info(from, version)).await.expect("an info");
        self.outcome().await.expect("no refusal");
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    pub async fn read<T>(
        &mut self,
        mut decode: impl FnMut(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> io::Result<T> {
        loop {
            let mut decoder = Decoder::new(&self.buffer);
            match decode(&mut decoder) {
                Ok(value) => {
                    let consumed = decoder.consumed();
                    self.buffer.advance(consumed);
                    return Ok(value);
                }
                Err(DecodeError::Incomplete { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads what is told up to the answer, or the failure.
    pub async fn outcome(&mut self) -> Result<(), RemoteError> {
        let minor = self.dialect.version.minor;
        loop {
            match self.read(|from| LogMessage::decode(from, minor)).await.expect("a message") {
                LogMessage::Last => return Ok(()),
                LogMessage::Error(error) => return Err(error),
                message => self.log.push(message),
            }
        }
    }

    pub async fn answer(&mut self, request: &Request) -> Result<Response, String> {
        self.outcome().await.map_err(|error| error.message)?;
        let dialect = self.dialect.clone();
        Ok(self.read(|from| Response::decode(from, &dialect, request)).await.expect("an answer"))
    }

    pub async fn call(&mut self, request: Request) -> Result<Response, String> {
        self.send(&request.encode(&self.dialect)).await;
        self.answer(&request).await
    }

    /// Sends a request and data in frames of `size` bytes behind it.
    pub async fn call_framed(
        &mut self,
        request: Request,
        data: &[u8],
        size: usize,
    ) -> Result<Response, String> {
        let mut wire = request.encode(&self.dialect);
        for chunk in data.chunks(size) {
            wire.extend(frame_header(chunk.len()));
            wire.extend(chunk);
        }
        wire.extend(FRAME_END);
        self.send(&wire).await;
        self.answer(&request).await
    }

    /// Sends a request and hands over data as it is asked for (before 1.23).
    pub async fn call_tunnelled(
        &mut self,
        request: Request,
        mut data: &[u8],
    ) -> Result<Response, String> {
        self.send(&request.encode(&self.dialect)).await;
        let minor = self.dialect.version.minor;
        loop {
            match self.read(|from| LogMessage::decode(from, minor)).await.expect("a message") {
                LogMessage::Read(wanted) => {
                    let len = data.len().min(usize::try_from(wanted).expect("little"));
                    let (piece, rest) = data.split_at(len);
                    data = rest;
                    let mut out = Encoder::new();
                    out.bytes(piece);
                    self.send(&out.into_bytes()).await;
                }
                LogMessage::Last => break,
                LogMessage::Error(error) => return Err(error.message),
                message => self.log.push(message),
            }
        }
        let dialect = self.dialect.clone();
        Ok(self.read(|from| Response::decode(from, &dialect, &request)).await.expect("an answer"))
    }

    /// Reads bytes that are no message.
    pub async fn read_exactly(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < len {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.split_to(len).to_vec())
    }

    /// Whether the server has closed the connection, having said nothing more.
    pub async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && matches!(self.stream.read_buf(&mut self.buffer).await, Ok(0))
    }

    /// The lines told so far.
    pub fn lines(&self) -> String {
        self.log
            .iter()
            .filter_map(|message| match message {
                LogMessage::Next(line) => Some(line.as_str()),
                _ => None,
            })
            .collect()
    }
}
