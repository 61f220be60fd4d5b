//! A client of the worker protocol that does no more than it must, so that what is measured is the
//! server. It waits in the system and not in a runtime.

use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use drover_core::{PathInfo, SignatureCheck, StoreDir};
use drover_wire::{
    DecodeError, Decoder, Dialect, Encoder, LogMessage, Request, Response, WORKER_LATEST,
    client_hello, encode_keyed_path_info, exchanges_features, frame_header, read_features,
    read_server_hello, read_server_info, write_client_end, write_features,
};

/// Bytes of a frame of data.
const FRAME: usize = 64 * 1024;

/// Bytes that are asked of the system at once.
const READ: usize = 256 * 1024;

/// A connection that has been greeted.
pub(super) struct Client<R, W> {
    from: R,
    to: W,
    buffer: Vec<u8>,
    /// What of the buffer has been read and not looked at.
    unread: Range<usize>,
    dialect: Dialect,
}

impl Client<UnixStream, UnixStream> {
    /// Connects to a daemon's socket and greets it.
    pub(super) fn connect(socket: &Path) -> Result<Client<UnixStream, UnixStream>> {
        let to = UnixStream::connect(socket)
            .with_context(|| format!("nobody listens at {}", socket.display()))?;
        Client::greet(to.try_clone()?, to)
    }
}

impl<R: Read, W: Write> Client<R, W> {
    /// Greets a server.
    pub(super) fn greet(from: R, to: W) -> Result<Client<R, W>> {
        let store_dir: StoreDir = "/nix/store".parse()?;
        let dialect = Dialect { store_dir, version: WORKER_LATEST, features: Default::default() };
        let mut client = Client { from, to, buffer: vec![0; READ], unread: 0..0, dialect };
        client.to.write_all(&client_hello(WORKER_LATEST))?;
        client.to.flush()?;
        let version = client.read(|from| read_server_hello(from, WORKER_LATEST))?;
        client.dialect.version = version;
        let mut out = Encoder::new();
        if exchanges_features(version) {
            write_features(&mut out, &[]);
        }
        write_client_end(&mut out);
        client.to.write_all(&out.into_bytes())?;
        client.to.flush()?;
        if exchanges_features(version) {
            client.read(|from| read_features(from, &[]))?;
        }
        client.read(|from| read_server_info(from, version))?;
        client.preamble()?;
        Ok(client)
    }

    /// Asks, and returns the answer.
    pub(super) fn ask(&mut self, request: &Request) -> Result<Response> {
        let bytes = request.encode(&self.dialect);
        self.to.write_all(&bytes)?;
        self.to.flush()?;
        self.preamble()?;
        let dialect = self.dialect.clone();
        self.read(|from| Response::decode(from, &dialect, request))
    }

    /// Asks for a NAR and hands its bytes on.
    pub(super) fn nar(&mut self, info: &PathInfo, mut take: impl FnMut(&[u8])) -> Result<()> {
        self.ask(&Request::NarFromPath(info.path.clone()))?;
        let mut left = usize::try_from(info.nar_size.0)?;
        while left > 0 {
            if self.unread.is_empty() {
                self.fill()?;
            }
            let unread = self.unread();
            let piece = unread.get(..left.min(unread.len())).unwrap_or_default();
            take(piece);
            let len = piece.len();
            left -= len;
            self.unread.start += len;
        }
        Ok(())
    }

    /// Adds one path.
    pub(super) fn add(&mut self, info: &PathInfo, nar: &[u8]) -> Result<()> {
        let request = Request::AddToStoreNar(info.clone(), SignatureCheck::Skip);
        self.to.write_all(&request.encode(&self.dialect))?;
        self.frames(nar)?;
        self.preamble()
    }

    /// Adds paths, references first, as one request.
    pub(super) fn add_many(&mut self, paths: &[(PathInfo, Vec<u8>)]) -> Result<()> {
        let request = Request::AddMultipleToStore(SignatureCheck::Skip);
        self.to.write_all(&request.encode(&self.dialect))?;
        let mut data = Encoder::new();
        data.number(paths.len() as u64);
        let mut data = data.into_bytes();
        for (info, nar) in paths {
            let mut one = Encoder::new();
            encode_keyed_path_info(&mut one, &self.dialect.store_dir, info);
            data.extend(one.into_bytes());
            data.extend_from_slice(nar);
            while FRAME <= data.len() {
                let rest = data.split_off(FRAME);
                self.frame(&data)?;
                data = rest;
            }
        }
        self.frames(&data)?;
        self.preamble()
    }

    fn frames(&mut self, data: &[u8]) -> Result<()> {
        for piece in data.chunks(FRAME) {
            self.frame(piece)?;
        }
        self.to.write_all(&frame_header(0))?;
        Ok(self.to.flush()?)
    }

    fn frame(&mut self, piece: &[u8]) -> Result<()> {
        self.to.write_all(&frame_header(piece.len()))?;
        Ok(self.to.write_all(piece)?)
    }

    /// Reads what comes before an answer.
    fn preamble(&mut self) -> Result<()> {
        let minor = self.dialect.version.minor;
        loop {
            match self.read(|from| LogMessage::decode(from, minor))? {
                LogMessage::Last => return Ok(()),
                LogMessage::Error(error) => bail!("the server says: {}", error.message),
                _ => {}
            }
        }
    }

    fn read<T>(
        &mut self,
        mut decode: impl FnMut(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> Result<T> {
        loop {
            let mut decoder = Decoder::new(self.unread());
            match decode(&mut decoder) {
                Ok(value) => {
                    self.unread.start += decoder.consumed();
                    return Ok(value);
                }
                Err(DecodeError::Incomplete { .. }) => self.fill()?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.unread.clone()).unwrap_or_default()
    }

    fn fill(&mut self) -> Result<()> {
        let Range { start, end } = self.unread;
        self.buffer.copy_within(start..end, 0);
        self.unread = 0..end - start;
        if self.buffer.len() == self.unread.end {
            self.buffer.resize(2 * self.unread.end, 0);
        }
        let room = self.buffer.get_mut(self.unread.end..).unwrap_or_default();
        match self.from.read(room)? {
            0 => bail!("the server hung up"),
            count => self.unread.end += count,
        }
        Ok(())
    }
}
