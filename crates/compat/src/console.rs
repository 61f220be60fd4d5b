//! Standard output and error of one command.

use drover_core::{Colours, harmless_bytes, without_raw};
use serde_json::Value;
use tokio::io::{AsyncWriteExt as _, BufWriter};

use crate::error::CompatError;
use crate::host::{Destination, Host, Output};
use crate::json_log;
use crate::options::{LogFormat, Options, ResultForm, Verbosity};

/// Bytes gathered before they are written.
const BUFFER: usize = 64 * 1024;

/// Standard output and error of one command. Output is gathered and written by
/// [`Console::flush`]; messages go out at once, behind it.
pub(crate) struct Console {
    out: BufWriter<Output>,
    err: Output,
    err_to: Destination,
    verbosity: Verbosity,
    form: LogFormat,
    /// Results that are printed as one list in the end.
    list: Option<Vec<Value>>,
}

impl Console {
    /// Returns the console of a command.
    pub(crate) fn of(host: &dyn Host, options: &Options) -> Console {
        let list = match options.results {
            ResultForm::Lines => None,
            ResultForm::Json => Some(Vec::new()),
        };
        Console { form: options.log_format, list, ..Console::new(host, options.verbosity) }
    }

    /// Returns one that speaks so.
    pub(crate) fn speaking(self, form: LogFormat) -> Console {
        Console { form, ..self }
    }

    pub(crate) fn form(&self) -> LogFormat {
        self.form
    }

    pub(crate) fn new(host: &dyn Host, verbosity: Verbosity) -> Console {
        let out = BufWriter::with_capacity(BUFFER, host.stdout());
        let (err, err_to) = (host.stderr(), host.destination_of_messages());
        Console { out, err, err_to, verbosity, form: LogFormat::Words, list: None }
    }

    /// Writes bytes to standard output.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), CompatError> {
        self.out.write_all(bytes).await.map_err(writing)
    }

    /// Writes a line to standard output, or keeps it for the list.
    pub(crate) async fn line(&mut self, text: impl AsRef<[u8]>) -> Result<(), CompatError> {
        if let Some(list) = &mut self.list {
            list.push(String::from_utf8_lossy(text.as_ref()).into());
            return Ok(());
        }
        self.write(text.as_ref()).await?;
        self.write(b"\n").await
    }

    /// Writes a line to standard output, or keeps the value that it tells of for the list.
    pub(crate) async fn line_or(&mut self, text: &str, value: Value) -> Result<(), CompatError> {
        match &mut self.list {
            Some(list) => list.push(value),
            None => self.line(text).await?,
        }
        Ok(())
    }

    /// Writes the list, if results go into one.
    pub(crate) async fn finish_list(&mut self) -> Result<(), CompatError> {
        match self.list.take() {
            Some(list) => self.line(Value::Array(list).to_string()).await,
            None => Ok(()),
        }
    }

    /// Writes out what was gathered.
    pub(crate) async fn flush(&mut self) -> Result<(), CompatError> {
        self.out.flush().await.map_err(writing)
    }

    /// Tells the user something, unless that is more than asked for.
    pub(crate) async fn say(&mut self, level: Verbosity, text: &str) -> Result<(), CompatError> {
        if self.verbosity < level {
            return Ok(());
        }
        match self.form {
            LogFormat::Json => self.tell(json_log::message(level, text) + "\n").await,
            LogFormat::Words | LogFormat::NamedLogs => self.tell(format!("{text}\n")).await,
        }
    }

    /// Tells the user several things at once, but for those that are more than asked for.
    pub(crate) async fn say_all(
        &mut self,
        lines: &[(Verbosity, String)],
    ) -> Result<(), CompatError> {
        let mut text = String::new();
        for (level, line) in lines.iter().filter(|(level, _)| *level <= self.verbosity) {
            match self.form {
                LogFormat::Json => text.push_str(&json_log::message(*level, line)),
                LogFormat::Words | LogFormat::NamedLogs => text.push_str(line),
            }
            text.push('\n');
        }
        match text.is_empty() {
            true => Ok(()),
            false => self.tell(text).await,
        }
    }

    /// Tells programs what they read: lines that are in their form already.
    pub(crate) async fn tell_programs(&mut self, lines: &[String]) -> Result<(), CompatError> {
        match lines.is_empty() {
            true => Ok(()),
            false => self.tell(lines.join("\n") + "\n").await,
        }
    }

    async fn tell(&mut self, text: String) -> Result<(), CompatError> {
        self.flush().await?;
        // builds have a say in it, and a terminal does what they say
        // a terminal could take bytes that aren't UTF-8 for commands, too
        let bytes = match self.err_to {
            Destination::Terminal => harmless_bytes(&without_raw(&text), Colours::Kept),
            Destination::Elsewhere => harmless_bytes(&text, Colours::Dropped),
        };
        self.err.write_all(&bytes).await.map_err(writing)?;
        self.err.flush().await.map_err(writing)
    }

    /// Warns the user.
    pub(crate) async fn warn(&mut self, text: &str) -> Result<(), CompatError> {
        self.say(Verbosity::WARN, &format!("warning: {text}")).await
    }
}

fn writing(source: std::io::Error) -> CompatError {
    CompatError::Stream { action: "writing to file", source }
}
