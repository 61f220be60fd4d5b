//! From what a build has left to outputs that can become valid.
//!
//! All processes of the build are gone by now. Its outputs are moved to a folder that nobody else can
//! enter before anything else is done with them, and from then on found by descriptor. Follows
//! `DerivationBuilderImpl::registerOutputs` of Nix 2.34
//! (`src/libstore/unix/build/derivation-builder.cc`).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};

use drover_core::{
    ContentAddress, HashAlgorithm, HashNotation, IngestionMethod, OutputName, PathInfo, References,
    StoreDir, StorePath,
};
use drover_derivation::{BasicDerivation, DerivationKind, Output, output_path_name};
use drover_recipe::{OutputRules, Rewriter};
use drover_store::{BuildFailure, FailureCause};
use drover_store_files::{
    FileName, FilesError, IGNORED_ATTRIBUTES, Owners, Tree, canonicalise, rename_into,
};
use drover_store_local::Product;
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use crate::contents::{At, ContentsError, Found};
use crate::failure::{Trouble, failed, not_produced, of_files, rejected};
use crate::order::{Cycle, finishing_order};

/// Whether something outside could have a way to a build's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Nothing could: it had no network.
    None,
    /// It had the machine's network, through whose sockets open files can be passed: what it made is
    /// copied before it's trusted.
    Network,
}

impl Reach {
    /// Returns what a build may reach that is shut in.
    pub(crate) fn due(kind: DerivationKind) -> Reach {
        match kind {
            DerivationKind::Fixed | DerivationKind::Impure => Reach::Network,
            _ => Reach::None,
        }
    }
}

/// What a build has left, and what is known of it.
pub(crate) struct Harvest {
    pub(crate) store_dir: StoreDir,
    /// The derivation's path.
    pub(crate) path: StorePath,
    pub(crate) derivation: BasicDerivation,
    pub(crate) rules: OutputRules,
    /// Where the build was told to write each output.
    pub(crate) scratch: BTreeMap<OutputName, StorePath>,
    /// All that it could refer to, apart from its outputs.
    pub(crate) closure: BTreeSet<StorePath>,
    pub(crate) owners: Owners,
    pub(crate) reach: Reach,
    /// Where the outputs are.
    pub(crate) from: OwnedFd,
    /// Where they are to be worked on.
    pub(crate) folder: OwnedFd,
}

/// What was made of what a build has left.
pub(crate) struct Gathered {
    pub(crate) products: BTreeMap<OutputName, Product>,
    /// Says that an output's hash isn't the fixed one. The product is what has the hash that it has, at
    /// the path that follows from it: whoever mends the hash finds it there, as with Nix.
    pub(crate) mismatch: Option<BuildFailure>,
}

/// An output that was taken over.
struct Taken {
    name: FileName,
    found: Found,
}

impl Harvest {
    /// Takes the outputs over, and says what is to be known of them.
    pub(crate) fn gather(&self) -> Result<Gathered, Trouble> {
        self.collect()?;
        let mut taken = BTreeMap::new();
        let paths: BTreeSet<StorePath> =
            self.closure.iter().chain(self.scratch.values()).cloned().collect();
        for name in self.scratch.keys() {
            let file = self.freshened(name)?;
            let at = At { folder: self.folder.as_fd(), name: &file };
            let mut found = at.find(&paths).map_err(|error| self.of_files(error))?;
            if self.rules.discards_references(name) {
                found.references.clear();
            }
            taken.insert(name.clone(), Taken { name: file, found });
        }
        let mut finals: BTreeMap<OutputName, StorePath> = BTreeMap::new();
        let mut gathered = Gathered { products: BTreeMap::new(), mismatch: None };
        for name in self.order(&taken)? {
            let Some(Taken { name: file, found }) = taken.remove(&name) else { continue };
            let (product, mismatch) = self.finish(&name, file, found, &finals)?;
            gathered.mismatch = gathered.mismatch.or(mismatch);
            finals.insert(name.clone(), product.info.path.clone());
            gathered.products.insert(name, product);
        }
        Ok(gathered)
    }

    /// Moves all outputs to the folder, and makes them canonical.
    fn collect(&self) -> Result<(), Trouble> {
        let mut names = Vec::new();
        for (output, scratch) in &self.scratch {
            let entry = entry("out", output).map_err(|error| self.of_files(error))?;
            self.check_root(output, scratch)?;
            let from = FileName::try_from(scratch).map_err(|error| self.of_files(error))?;
            rename_into(self.from.as_fd(), &from, self.folder.as_fd(), &entry)
                .map_err(|error| self.of_files(error))?;
            names.push(entry);
        }
        let folder = self.folder.as_fd();
        let trees: Vec<Tree<'_>> = names.iter().map(|name| Tree { dir: folder, name }).collect();
        canonicalise(&trees, &self.owners, &IGNORED_ATTRIBUTES)
            .map_err(|error| self.of_files(error))
            .map_err(Trouble::from)
    }

    /// Checks that an output is there, and that nobody but its owner could write it.
    fn check_root(&self, output: &OutputName, scratch: &StorePath) -> Result<(), BuildFailure> {
        let stat = rustix::fs::statat(&self.from, scratch.base_name(), AtFlags::SYMLINK_NOFOLLOW);
        let shown = self.store_dir.display(scratch);
        match stat {
            Err(Errno::NOENT) => Err(not_produced(&self.shown(), output, &shown)),
            Err(errno) => Err(self.of_files(std::io::Error::from(errno))),
            Ok(stat) => {
                let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
                let foreign = match &self.owners {
                    // of a range, it's the first who builds
                    Owners::Users(users) => stat.st_uid != *users.start(),
                    Owners::Anybody => false,
                };
                match foreign || !is_link && stat.st_mode & 0o022 != 0 {
                    true => Err(rejected(format!(
                        "suspicious ownership or permission on '{shown}' for output '{output}'; \
                         rejecting this build output"
                    ))),
                    false => Ok(()),
                }
            }
        }
    }

    /// Returns what an output is called that nobody outside has a way to.
    fn freshened(&self, output: &OutputName) -> Result<FileName, Trouble> {
        let old = entry("out", output).map_err(|error| self.of_files(error))?;
        if self.reach == Reach::None {
            return Ok(old);
        }
        let copy = || -> Result<FileName, FilesError> {
            let new = entry("copy", output)?;
            let at = At { folder: self.folder.as_fd(), name: &old };
            at.copy_to(&new)?;
            at.remove()?;
            Ok(new)
        };
        copy().map_err(|error| self.of_files(error).into())
    }

    fn order(&self, taken: &BTreeMap<OutputName, Taken>) -> Result<Vec<OutputName>, Trouble> {
        let outputs = |found: &Found| {
            let among = |(_, path): &(&OutputName, &StorePath)| found.references.contains(*path);
            self.scratch.iter().filter(among).map(|(name, _)| name.clone()).collect()
        };
        let references =
            taken.iter().map(|(name, taken)| (name.clone(), outputs(&taken.found))).collect();
        finishing_order(&references).map_err(|Cycle { from, to }| {
            rejected(format!(
                "cycle detected in build of '{}' in the references of output '{to}' from output \
                 '{from}'",
                self.shown()
            ))
            .into()
        })
    }

    /// Gives an output its path, and says whether that is another than the derivation's as its hash is.
    /// `finals` are those of the outputs that it refers to.
    fn finish(
        &self,
        output: &OutputName,
        file: FileName,
        found: Found,
        finals: &BTreeMap<OutputName, StorePath>,
    ) -> Result<(Product, Option<BuildFailure>), Trouble> {
        let (Some(wanted), Some(scratch)) =
            (self.derivation.outputs.get(output), self.scratch.get(output))
        else {
            return Err(failed(format!("'{}' has no output '{output}'", self.shown())).into());
        };
        let mut work = Work { harvest: self, output, file, found, itself: scratch.clone() };
        work.redirect(finals)?;
        let mut mismatch = None;
        let (path, address) = match wanted {
            Output::InputAddressed(path) => (path.clone(), None),
            Output::Fixed { address, path } => match work.differing(address)? {
                None => (path.clone(), Some(address.clone())),
                Some(got) => {
                    mismatch = Some(work.mismatch(address, &got));
                    (work.path_of(&got)?, Some(got))
                }
            },
            Output::Floating { method, algorithm } | Output::Impure { method, algorithm } => {
                let hash = work.address(*method, *algorithm)?;
                let address = ContentAddress { method: *method, hash };
                (work.path_of(&address)?, Some(address))
            }
            Output::Deferred => {
                let text =
                    format!("the path of output '{output}' of '{}' isn't known", self.shown());
                return Err(failed(text).into());
            }
        };
        work.move_to(&path)?;
        Ok((work.product(path, address), mismatch))
    }

    fn of_files(&self, error: impl Into<ContentsError>) -> BuildFailure {
        of_files(&self.shown(), error)
    }

    fn shown(&self) -> String {
        self.store_dir.display(&self.path)
    }
}

fn entry(stage: &str, output: &OutputName) -> Result<FileName, FilesError> {
    FileName::new(format!("{stage}-{output}").as_bytes())
}

/// One output on its way to its path.
struct Work<'a> {
    harvest: &'a Harvest,
    output: &'a OutputName,
    file: FileName,
    found: Found,
    /// What it mentions where it mentions itself.
    itself: StorePath,
}

impl Work<'_> {
    fn at(&self) -> At<'_> {
        At { folder: self.harvest.folder.as_fd(), name: &self.file }
    }

    /// Has it mention other outputs by the paths that they have in the end.
    fn redirect(&mut self, finals: &BTreeMap<OutputName, StorePath>) -> Result<(), Trouble> {
        let scratch = &self.harvest.scratch;
        let pairs = finals.iter().filter_map(|(name, to)| Some((scratch.get(name)?, to)));
        let pairs: Vec<(StorePath, StorePath)> = pairs
            .filter(|(from, to)| from != to && self.may_mention(from))
            .map(|(from, to)| (from.clone(), to.clone()))
            .collect();
        self.rewrite("others", &pairs)
    }

    /// Has it mention itself by this path, if it does.
    fn move_to(&mut self, path: &StorePath) -> Result<(), Trouble> {
        let from = std::mem::replace(&mut self.itself, path.clone());
        match from != *path && self.may_mention(&from) {
            true => self.rewrite("self", &[(from, path.clone())]),
            false => Ok(()),
        }
    }

    /// Whether it mentions a path, as far as is known: what it mentions doesn't count where it
    /// discards its references, but stands in it all the same.
    fn may_mention(&self, path: &StorePath) -> bool {
        self.harvest.rules.discards_references(self.output) || self.found.references.contains(path)
    }

    fn rewrite(&mut self, stage: &str, pairs: &[(StorePath, StorePath)]) -> Result<(), Trouble> {
        if pairs.is_empty() {
            return Ok(());
        }
        let rewrite = || -> Result<(FileName, Found), FilesError> {
            let new = entry(stage, self.output)?;
            let rewriter = Rewriter::of_paths(pairs.iter().map(|(from, to)| (from, to)));
            self.at().rewrite_to(&new, rewriter)?;
            self.at().remove()?;
            let at = At { folder: self.harvest.folder.as_fd(), name: &new };
            let found = at.find(&BTreeSet::new())?;
            Ok((new, found))
        };
        let (file, found) = rewrite().map_err(|error| self.harvest.of_files(error))?;
        let mut references = std::mem::take(&mut self.found.references);
        for (from, to) in pairs {
            if references.remove(from) {
                references.insert(to.clone());
            }
        }
        (self.file, self.found) = (file, Found { references, ..found });
        Ok(())
    }

    fn address(
        &self,
        method: IngestionMethod,
        algorithm: HashAlgorithm,
    ) -> Result<drover_core::Hash, Trouble> {
        let harvest = self.harvest;
        if matches!(method, IngestionMethod::Flat | IngestionMethod::Text) {
            let plain = self.at().is_plain_file().map_err(std::io::Error::from);
            if !plain.map_err(|error| harvest.of_files(error))? {
                let shown = harvest.store_dir.display(&self.itself);
                return Err(rejected(format!(
                    "output path '{shown}' should be a non-executable regular file since \
                     recursive hashing is not enabled (one of outputHashMode={{flat,text}} is true)"
                ))
                .into());
            }
        }
        let hash = self.at().address(method, algorithm, &self.itself);
        hash.map_err(|error| harvest.of_files(error).into())
    }

    /// Returns the address of a fixed output, if it's another than the expected one. That comes first, as
    /// in Nix, where a path follows from it whatever is referred to.
    fn differing(&self, expected: &ContentAddress) -> Result<Option<ContentAddress>, Trouble> {
        let ContentAddress { method, hash } = expected;
        let refers = !self.found.references.is_empty();
        let has_path =
            !refers || (*method, hash.algorithm()) == (IngestionMethod::Nar, HashAlgorithm::Sha256);
        if has_path {
            let hash = self.address(*method, hash.algorithm())?;
            let got = ContentAddress { method: *method, hash };
            if got != *expected {
                return Ok(Some(got));
            }
        }
        match refers {
            false => Ok(None),
            true => Err(rejected(format!(
                "fixed output derivation '{}' is not allowed to refer to other store paths.\nYou may \
                 need to use the 'unsafeDiscardReferences' derivation attribute, see the manual for \
                 more details.",
                self.harvest.derivation.name
            ))
            .into()),
        }
    }

    fn mismatch(&self, expected: &ContentAddress, got: &ContentAddress) -> BuildFailure {
        let shown = self.harvest.shown();
        let [specified, got] =
            [expected, got].map(|address| address.hash.display(HashNotation::Sri));
        let message = format!(
            "hash mismatch in fixed-output derivation '{shown}':\n  specified: {specified}\n     \
             got:    {got}"
        );
        BuildFailure { cause: FailureCause::HashMismatch, message }
    }

    fn path_of(&self, address: &ContentAddress) -> Result<StorePath, Trouble> {
        let harvest = self.harvest;
        let name = output_path_name(&harvest.derivation.name, self.output)?;
        let mut references = References { others: self.found.references.clone(), itself: false };
        references.itself = references.others.remove(&self.itself);
        let path = harvest.store_dir.content_addressed_path(address, &references, &name);
        path.map_err(|error| failed(error.to_string()).into())
    }

    fn product(self, path: StorePath, content_address: Option<ContentAddress>) -> Product {
        let Found { references, hash, size } = self.found;
        let info = PathInfo {
            path,
            deriver: Some(self.harvest.path.clone()),
            nar_hash: hash,
            nar_size: size,
            references,
            registration_time: 0,
            ultimate: true,
            signatures: BTreeSet::new(),
            content_address,
        };
        Product { info, entry: String::from_utf8_lossy(self.file.as_bytes()).into_owned() }
    }
}
