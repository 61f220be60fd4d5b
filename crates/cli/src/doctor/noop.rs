//! A build that does nothing, there and back.
//!
//! Its builder is `/bin/sh`, as in the examples of guides, and what it leaves is a file of one line, which stays
//! there as garbage. Not every sandbox has a shell: where that fails, a builder is tried that is part of
//! every Nix, so that nothing has to be there. Nothing is sent but the derivation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{
    ContentAddress, Hash, HashAlgorithm, IngestionMethod, NarHash, NarSize, OutputName, PathInfo,
    StoreDir, StoreName, StorePath,
};
use drover_derivation::{
    BasicDerivation, Derivation, DerivationError, Environment, HashModuloCache, Output, output_path,
};
use drover_doctor::checks::build::Came;
use drover_store::{
    BuildFailure, BuildOutcome, BuildPlan, BuildRequest, BuildWishes, Builder as _, FailureCause,
    PathStream, SilentLog, Store as _, StoreError, Trust,
};
use drover_store_remote::RemoteStore;

/// Builds something for a system, with the features that the machine insists on, and brings it here.
pub(super) async fn build(
    store: &RemoteStore,
    trust: Trust,
    system: &str,
    features: &BTreeSet<String>,
) -> Came {
    match build_by(By::Shell, store, trust, system, features).await {
        Came::Failed(why) => match build_by(By::Nix, store, trust, system, features).await {
            Came::Back => Came::BackWithoutShell(why),
            came => came,
        },
        came => came,
    }
}

/// Who builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The machine's shell.
    Shell,
    /// A builder that is part of Nix.
    Nix,
}

async fn build_by(
    by: By,
    store: &RemoteStore,
    trust: Trust,
    system: &str,
    features: &BTreeSet<String>,
) -> Came {
    let (path, derivation) = match derivation(by, store.store_dir(), system, features) {
        Ok(made) => made,
        Err(error) => return Came::Failed(error.to_string()),
    };
    let built = match trust {
        Trust::NotTrusted => from_store(store, &path, &derivation).await,
        Trust::Trusted | Trust::Unknown => match at_our_word(store, &path, &derivation).await {
            Ok(BuildOutcome::Failed(BuildFailure { cause: FailureCause::Refused, .. })) => {
                from_store(store, &path, &derivation).await
            }
            built => built,
        },
    };
    match built {
        Ok(BuildOutcome::Built(built)) => fetch(store, built.outputs.into_values().collect()).await,
        Ok(BuildOutcome::Failed(BuildFailure { cause: FailureCause::Refused, message })) => {
            Came::Refused(message)
        }
        Ok(BuildOutcome::Failed(failure)) => Came::Failed(failure.message),
        // one that has ended a connection at a build may say why when it's asked something else
        Err(error) => match store.path_infos(std::slice::from_ref(&path)).await {
            Ok(_) => Came::Failed(error.to_string()),
            Err(why) => Came::Failed(why.to_string()),
        },
    }
}

/// Has it built from what we say.
async fn at_our_word(
    store: &RemoteStore,
    path: &StorePath,
    derivation: &Derivation,
) -> Result<BuildOutcome, StoreError> {
    let lane = store.open_lane().await?;
    let plan = BuildPlan::Derivation(Box::new(derivation.to_basic([])));
    lane.build(request(path, derivation, plan), Arc::new(SilentLog)).await
}

/// Has it built from its file, which anybody may add.
async fn from_store(
    store: &RemoteStore,
    path: &StorePath,
    derivation: &Derivation,
) -> Result<BuildOutcome, StoreError> {
    let lane = store.open_lane().await?;
    lane.import(file(store.store_dir(), path, derivation)).await?;
    let request = request(path, derivation, BuildPlan::FromStore);
    lane.build(request, Arc::new(SilentLog)).await
}

fn request(path: &StorePath, derivation: &Derivation, plan: BuildPlan) -> BuildRequest {
    let known = derivation.outputs.iter();
    let known = known.filter_map(|(name, output)| Some((name.to_string(), output.path()?.clone())));
    BuildRequest {
        derivation: path.clone(),
        outputs: BTreeSet::from(["out".to_owned()]),
        known_outputs: known.collect(),
        plan,
        wishes: BuildWishes::default(),
        bring: None,
    }
}

/// Fetches what was built, and checks it.
async fn fetch(store: &RemoteStore, outputs: Vec<PathInfo>) -> Came {
    for info in outputs {
        let announced = info.nar_hash;
        match store.small_nar(info).await {
            Ok(nar) if nar_hash(&nar) == announced => {}
            Ok(_) => return Came::NotBack("it has another hash than was announced".to_owned()),
            Err(error) => return Came::NotBack(error.to_string()),
        }
    }
    Came::Back
}

fn nar_hash(nar: &[u8]) -> NarHash {
    let hash = Hash::of(HashAlgorithm::Sha256, nar);
    NarHash(hash.digest().try_into().unwrap_or_default())
}

/// Returns a derivation that nobody has built, and its path.
fn derivation(
    by: By,
    store_dir: &StoreDir,
    system: &str,
    features: &BTreeSet<String>,
) -> Result<(StorePath, Derivation), anyhow::Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let salt = format!("{}-{}", now.as_nanos(), std::process::id());
    let features: Vec<&str> = features.iter().map(String::as_str).collect();
    let features = features.join(" ");
    let with_output = |output: Output, path: &str| -> Result<Derivation, anyhow::Error> {
        let name: StoreName = "drover-doctor".parse()?;
        let builder = match by {
            By::Shell => "/bin/sh",
            By::Nix => "builtin:buildenv",
        };
        let args = match by {
            By::Shell => vec!["-c".into(), "echo built > $out".into()],
            By::Nix => Vec::new(),
        };
        let environment: Environment = [
            ("builder", builder),
            // the one that is part of Nix asks for these
            ("derivations", ""),
            ("manifest", "/dev/null"),
            ("name", "drover-doctor"),
            ("out", path),
            ("requiredSystemFeatures", &features),
            ("salt", &salt),
            ("system", system),
        ]
        .into_iter()
        .collect();
        Ok(BasicDerivation {
            name,
            outputs: BTreeMap::from([(OutputName::out(), output)]),
            input_sources: BTreeSet::new(),
            system: system.to_owned(),
            builder: builder.into(),
            args,
            environment,
        }
        .into())
    };
    let masked = with_output(Output::Deferred, "")?;
    let path = own_output(store_dir, &masked)?;
    let shown = store_dir.display(&path);
    let derivation = with_output(Output::InputAddressed(path), &shown)?;
    Ok((derivation.derivation_path(store_dir)?, derivation))
}

fn own_output(store_dir: &StoreDir, masked: &Derivation) -> Result<StorePath, DerivationError> {
    let hash = HashModuloCache::new().masked(store_dir, masked)?.to_hash();
    output_path(store_dir, &masked.name, &OutputName::out(), &hash)
}

/// Returns the derivation's file as a path to be added.
fn file(store_dir: &StoreDir, path: &StorePath, derivation: &Derivation) -> Box<dyn PathStream> {
    let text = derivation.to_aterm(store_dir);
    let nar = drover_nar::single_file_nar(&text, drover_nar::Executable::No);
    let info = PathInfo {
        path: path.clone(),
        deriver: None,
        nar_hash: nar_hash(&nar),
        nar_size: NarSize(nar.len() as u64),
        references: BTreeSet::new(),
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: Some(ContentAddress {
            method: IngestionMethod::Text,
            hash: Hash::of(HashAlgorithm::Sha256, &text),
        }),
    };
    Box::new(OneFile { info: Some(info), nar: Some(nar.into()) })
}

/// A single path that is in memory.
struct OneFile {
    info: Option<PathInfo>,
    nar: Option<Bytes>,
}

#[async_trait]
impl PathStream for OneFile {
    fn count(&self) -> usize {
        usize::from(self.info.is_some())
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        Ok(self.info.take())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        Ok(self.nar.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derivation_is_one_that_nix_takes() {
        let store_dir = StoreDir::default();
        let features = BTreeSet::from(["kvm".to_owned()]);
        for by in [By::Shell, By::Nix] {
            let (path, made) = derivation(by, &store_dir, "x86_64-linux", &features).unwrap();
            made.check_outputs(&store_dir, &HashModuloCache::new()).unwrap();
            assert!(path.to_string().ends_with("-drover-doctor.drv"));
            assert_eq!(made.required_system_features().unwrap(), features);
            let (other, _) = derivation(by, &store_dir, "x86_64-linux", &features).unwrap();
            assert_ne!(path, other, "each is built anew");
        }
    }
}
