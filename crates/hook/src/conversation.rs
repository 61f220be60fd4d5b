//! Reads what Nix says and writes the answers.

use std::io::{self, Read, Write};

use drover_core::StoreDir;
use drover_wire::{DecodeError, Decoder};

use crate::message::{self, Order, Question, Reply, Settings};

/// Bytes that are read at once.
const PIECE: usize = 64 * 1024;
/// Bytes that a message may have: the closure of a large system has some megabytes.
const MAX_MESSAGE: usize = 256 * 1024 * 1024;

/// Why there is no understanding with the Nix that has started the hook.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// What it says can't be read, or nobody hears the answer.
    #[error("cannot {doing} the Nix that has started this hook")]
    Lost {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It says something else than Nix does.
    #[error(
        "what is on standard input is not what Nix tells a build hook; this program is for \
         `build-hook = drover hook` in nix.conf"
    )]
    Foreign(#[source] DecodeError),
    /// It ended in the middle.
    #[error("Nix has ended in the middle of what it was saying")]
    Cut,
}

/// The conversation with the Nix that has started the hook.
#[derive(Debug)]
pub struct Conversation<R, W> {
    input: R,
    output: W,
    buffer: Vec<u8>,
}

/// What was read.
enum Heard<T> {
    Message(T),
    /// Nix has closed its side between two messages.
    End,
}

impl<R: Read, W: Write> Conversation<R, W> {
    /// Begins one: questions come in at `input`, answers go to `output`.
    pub fn new(input: R, output: W) -> Conversation<R, W> {
        Conversation { input, output, buffer: Vec::new() }
    }

    /// Reads the settings, which come first.
    ///
    /// # Errors
    ///
    /// What comes is something else, or ends.
    pub fn settings(&mut self) -> Result<Settings, HookError> {
        match self.hear(message::settings)? {
            Heard::Message(settings) => Ok(settings),
            Heard::End => Err(HookError::Cut),
        }
    }

    /// Waits for the next question; nothing where there is none any more.
    ///
    /// # Errors
    ///
    /// What comes is something else, or ends in its middle.
    pub fn question(&mut self, store_dir: &StoreDir) -> Result<Option<Question>, HookError> {
        match self.hear(|from| message::question(from, store_dir))? {
            Heard::Message(question) => Ok(Some(question)),
            Heard::End => Ok(None),
        }
    }

    /// Answers a question.
    ///
    /// # Errors
    ///
    /// Nobody is there any more to hear it.
    pub fn reply(&mut self, reply: &Reply) -> Result<(), HookError> {
        self.say(&reply.lines())
    }

    /// Warns the user, who may be a client of the Nix that asks.
    ///
    /// # Errors
    ///
    /// Nobody is there any more to hear it.
    pub fn warn(&mut self, text: &str) -> Result<(), HookError> {
        self.say(&message::warning(text))
    }

    fn say(&mut self, text: &str) -> Result<(), HookError> {
        let said = self.output.write_all(text.as_bytes()).and_then(|()| self.output.flush());
        said.map_err(|source| HookError::Lost { doing: "answer", source })
    }

    /// Reads what a build needs that was accepted.
    ///
    /// # Errors
    ///
    /// What comes is something else, or ends.
    pub fn order(&mut self, store_dir: &StoreDir) -> Result<Order, HookError> {
        match self.hear(|from| message::order(from, store_dir))? {
            Heard::Message(order) => Ok(order),
            Heard::End => Err(HookError::Cut),
        }
    }

    fn hear<T>(
        &mut self,
        decode: impl Fn(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> Result<Heard<T>, HookError> {
        let mut wanted = 0;
        loop {
            if wanted <= self.buffer.len() && !self.buffer.is_empty() {
                let mut decoder = Decoder::new(&self.buffer);
                match decode(&mut decoder) {
                    Ok(message) => {
                        let consumed = decoder.consumed();
                        self.buffer.drain(..consumed);
                        return Ok(Heard::Message(message));
                    }
                    Err(DecodeError::Incomplete { missing }) => {
                        wanted = self.buffer.len().saturating_add(missing);
                    }
                    Err(error) => return Err(HookError::Foreign(error)),
                }
                if MAX_MESSAGE < wanted {
                    let (len, max) = (wanted as u64, MAX_MESSAGE);
                    return Err(HookError::Foreign(DecodeError::TooLong { len, max }));
                }
            }
            if !self.fill()? {
                return match self.buffer.is_empty() {
                    true => Ok(Heard::End),
                    false => Err(HookError::Cut),
                };
            }
        }
    }

    /// Reads some bytes; `false` at the end.
    fn fill(&mut self) -> Result<bool, HookError> {
        let mut piece = vec![0; PIECE];
        let read = loop {
            match self.input.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let count = read.map_err(|source| HookError::Lost { doing: "hear", source })?;
        self.buffer.extend_from_slice(piece.get(..count).unwrap_or_default());
        Ok(0 < count)
    }
}

#[cfg(test)]
mod tests {
    use drover_wire::Encoder;
    use proptest::prelude::*;

    use super::*;

    const DRV: &str = "/nix/store/0c1s2b3z4v5k6d7f8a9lmnpqrwxyhjgi-x.drv";

    fn said() -> Vec<u8> {
        let mut out = Encoder::new();
        for (name, value) in [("builders", "@/etc/nix/machines"), ("cores", "0")] {
            out.flag(true);
            out.text(name);
            out.text(value);
        }
        out.flag(false);
        out.text("try");
        out.flag(true);
        out.text("x86_64-linux");
        out.text(DRV);
        out.list(["kvm"].iter(), |out, word| out.text(word));
        out.list([DRV].iter(), |out, path| out.text(path));
        out.list(["out"].iter(), |out, word| out.text(word));
        out.into_bytes()
    }

    /// Gives few bytes at a time.
    struct Dripping<'a>(&'a [u8], usize);

    impl Read for Dripping<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            let (now, later) = self.0.split_at(count);
            into[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    proptest! {
        #[test]
        fn is_understood_however_it_comes(piece in 1_usize..100) {
            let (said, store_dir) = (said(), StoreDir::default());
            let mut answers = Vec::new();
            let mut talk = Conversation::new(Dripping(&said, piece), &mut answers);
            let settings = talk.settings().unwrap();
            prop_assert_eq!(settings.get("builders").unwrap(), "@/etc/nix/machines");
            let question = talk.question(&store_dir).unwrap().unwrap();
            prop_assert!(question.is_willing && question.features.contains("kvm"));
            talk.warn("no machine\nis up").unwrap();
            talk.reply(&Reply::Accept { machine: "b1".to_owned() }).unwrap();
            let order = talk.order(&store_dir).unwrap();
            prop_assert_eq!(order.inputs.len(), 1);
            prop_assert!(talk.question(&store_dir).unwrap().is_none());
            let answers = String::from_utf8(answers).unwrap();
            let warning = r#"@nix {"action":"msg","level":1,"msg":"no machine\nis up"}"#;
            prop_assert_eq!(answers, format!("{warning}\n# accept\nb1\n"));
        }

        #[test]
        fn whatever_comes_is_no_panic(bytes: Vec<u8>) {
            let mut talk = Conversation::new(bytes.as_slice(), Vec::new());
            if talk.settings().is_ok() {
                drop(talk.question(&StoreDir::default()));
            }
        }
    }

    #[test]
    fn what_is_cut_is_told_from_the_end() {
        let said = said();
        let cut = said.get(..said.len() - 8).unwrap();
        let store_dir = StoreDir::default();
        let mut talk = Conversation::new(cut, Vec::new());
        talk.settings().unwrap();
        talk.question(&store_dir).unwrap();
        assert!(matches!(talk.order(&store_dir), Err(HookError::Cut)));
        let mut talk = Conversation::new(&b"garbage that a user has typed"[..], Vec::new());
        let refused = talk.settings().unwrap_err().to_string();
        assert!(refused.contains("build-hook = drover hook"), "{refused}");
    }
}
