//! Operations whose request is followed by data.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use drover_core::{IngestionMethod, PathInfo, StorePath};
use drover_store::{Content, Repair};
use drover_wire::{Decoder, MAX_COUNT, NewContent, Request, Response};

use crate::answer::{Answer, store_name};
use crate::error::DaemonError;
use crate::failure::Failure;
use crate::feed::{
    BareForm, Feeder, Frames, bare_nar, framed_bytes, framed_nar, framed_paths, tunnelled_nar,
};
use crate::server::ClientTrust;
use crate::session::Session;
use crate::stream::{Pieces, pieces};
use crate::wires::{Wires, run_fed};

impl Session {
    /// Returns both ends of the way of a client's data.
    fn feeder(&self, count: usize) -> (Feeder, Pieces, Arc<AtomicBool>) {
        let (queue, taken) = pieces(count);
        let failed = Arc::new(AtomicBool::new(false));
        let drain = self.shared.limits.drain;
        (Feeder { queue, failed: Arc::clone(&failed), drain }, taken, failed)
    }

    /// Answers, unless a failure was told already.
    fn reply_unless_told(&mut self, response: Option<Response>) {
        if let Some(response) = response {
            self.reply(Ok(response));
        }
    }

    /// `AddToStore`: contents, framed from 1.25 on; before, a bare NAR whatever they are.
    pub(crate) async fn add_content(&mut self, new: NewContent) -> Result<(), DaemonError> {
        let context = self.context().await?;
        let (feeder, bytes, failed) = self.feeder(0);
        let (dialect, minor) = (Arc::clone(&self.dialect), self.dialect.version.minor);
        let framed = dialect.since(25);
        let form = match new.method {
            IngestionMethod::Flat => BareForm::File,
            _ => BareForm::Nar,
        };
        let work = async move {
            let when_valid = context.client.trust.when_valid(new.repair)?;
            let content = Content {
                name: store_name(&new.name)?,
                method: new.method,
                algorithm: new.algorithm,
                references: new.references,
            };
            let added = context.keeper.add_content(content, Box::new(bytes), when_valid).await;
            let info = added.map_err(|error| match form {
                BareForm::File if !framed => {
                    Failure::new(format!("regular file expected: {error}"))
                }
                _ => context.failure(&error),
            })?;
            Ok(if framed { Response::Added(Box::new(info)) } else { Response::Path(info.path) })
        };
        let Wires { input, output, log } = &mut self.wires;
        let done = if framed {
            run_fed(output, log, minor, &failed, work, framed_bytes(input, feeder)).await
        } else {
            run_fed(output, log, minor, &failed, work, bare_nar(input, feeder, form)).await
        };
        self.reply_unless_told(done?);
        Ok(())
    }

    /// `AddToStoreNar` and `AddMultipleToStore`, and the same with the flag for repairs.
    pub(crate) async fn add_paths(&mut self, request: Request) -> Result<(), DaemonError> {
        let (info, check, repair) = match request {
            Request::AddToStoreNar(info, check) => (Some(info), check, Repair::No),
            Request::RepairToStoreNar(info, check) => (Some(info), check, Repair::Yes),
            Request::AddMultipleToStore(check) => (None, check, Repair::No),
            Request::RepairMultipleToStore(check) => (None, check, Repair::Yes),
            request => {
                let what = format!("operation {} adds no paths", request.operation());
                return Err(DaemonError::NotOffered { what });
            }
        };
        let context = self.context().await?;
        let mut frames = Frames::default();
        let count = match info {
            Some(_) => 1,
            None => frames.message(&mut self.wires.input, read_count).await?,
        };
        let (feeder, paths, failed) = self.feeder(count);
        let work = async move {
            let when_valid = context.client.trust.when_valid(repair)?;
            let signatures = context.client.trust.signatures(check);
            let added = context.keeper.add_paths(Box::new(paths), signatures, when_valid).await;
            added.map_err(|error| context.failure(&error))?;
            Ok(Response::Nothing)
        };
        let done = match info {
            Some(info) => self.run_one(info, feeder, &failed, work).await?,
            None => {
                let (store_dir, minor) =
                    (self.dialect.store_dir.clone(), self.dialect.version.minor);
                let Wires { input, output, log } = &mut self.wires;
                let feed = framed_paths(input, frames, feeder, count, &store_dir);
                run_fed(output, log, minor, &failed, work, feed).await?
            }
        };
        self.reply_unless_told(done);
        Ok(())
    }

    /// Runs what adds one path, whose NAR comes framed from 1.23 on.
    async fn run_one(
        &mut self,
        mut info: PathInfo,
        feeder: Feeder,
        failed: &AtomicBool,
        work: impl Future<Output = Answer>,
    ) -> Result<Option<Response>, DaemonError> {
        if self.client.trust == ClientTrust::NotTrusted {
            info.ultimate = false;
        }
        let minor = self.dialect.version.minor;
        let Wires { input, output, log } = &mut self.wires;
        if minor >= 23 {
            return run_fed(output, log, minor, failed, work, framed_nar(input, feeder, info))
                .await;
        }
        let asked = Arc::clone(log);
        let feed = tunnelled_nar(input, feeder, info, &asked);
        run_fed(output, log, minor, failed, work, feed).await
    }

    /// `AddBuildLog`.
    pub(crate) async fn add_build_log(&mut self, path: StorePath) -> Result<(), DaemonError> {
        let context = self.context().await?;
        let (feeder, bytes, failed) = self.feeder(0);
        let work = async move {
            context.client.trust.require("you are not privileged to add logs")?;
            let added = context.keeper.add_build_log(&path, Box::new(bytes)).await;
            added.map_err(|error| context.failure(&error))?;
            Ok(Response::Done)
        };
        let minor = self.dialect.version.minor;
        let Wires { input, output, log } = &mut self.wires;
        let done = run_fed(output, log, minor, &failed, work, framed_bytes(input, feeder)).await?;
        self.reply_unless_told(done);
        Ok(())
    }
}

fn read_count(from: &mut Decoder<'_>) -> Result<usize, drover_wire::DecodeError> {
    let count = from.number_up_to("count of paths", MAX_COUNT as u64)?;
    Ok(usize::try_from(count).unwrap_or(MAX_COUNT))
}
