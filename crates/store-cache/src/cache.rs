//! A binary cache: what it tells of itself and of paths.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use drover_config::StoreReference;
use drover_core::{NarInfo, StoreDir, StorePath};
use drover_store::StoreError;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::{Mutex, OnceCell, Semaphore};
use tokio::time::Instant;

use crate::answers::Answers;
use crate::cache_info::{self, CacheInfo};
use crate::destination::{Destination, Writing, cannot_write, write_whole};
use crate::disk::{self, DiskCache, Said};
use crate::error::{CacheError, TransferError};
use crate::file::is_new;
use crate::http_put::Upload;
use crate::place::Place;
use crate::settings::{CacheSettings, Parameters, check_scheme};
use crate::told::warn_once;
use crate::transport::Transport;
use crate::unnamed;

/// How long a cache may take to say that it is one, with all attempts.
const FIRST_ANSWER: Duration = Duration::from_secs(20);

/// How long it counts what a cache has told of itself.
const INFO_AGE: Duration = Duration::from_secs(600);

/// The kind of file that `nix-cache-info` is.
const INFO: &str = "text/x-nix-cache-info";

/// Removes what others have left behind in the folders of a cache.
async fn sweep(cache: PathBuf) {
    let sweep = move || {
        let folders = [cache.join("nar"), cache.join("realisations"), cache];
        folders.iter().for_each(|folder| unnamed::sweep(folder));
    };
    // what can't be removed stays
    drop(tokio::task::spawn_blocking(sweep).await);
}

/// What all requests to one cache share.
pub(crate) struct Cache {
    pub(crate) name: String,
    pub(crate) store_dir: StoreDir,
    pub(crate) settings: CacheSettings,
    pub(crate) parameters: Parameters,
    pub(crate) transport: Arc<dyn Transport>,
    /// Where it is written, and in which way.
    pub(crate) writing: Writing,
    pub(crate) answers: Answers,
    /// Who fetches NARs ahead of those that are awaited.
    pub(crate) ahead: Arc<Semaphore>,
    pub(crate) questions: Semaphore,
    info: Mutex<Option<(Instant, CacheInfo)>>,
    /// Whether what others have left in its folders was looked for.
    swept: OnceCell<()>,
    disk: Option<DiskCache>,
}

impl Cache {
    pub(crate) fn new(
        reference: &StoreReference,
        store_dir: StoreDir,
        settings: CacheSettings,
    ) -> Result<Cache, CacheError> {
        check_scheme(reference)?;
        let parameters = Parameters::read(reference)?;
        // Questions always get through, however many NARs are on their way.
        let connections = settings.connections();
        let ahead = Arc::new(Semaphore::new(connections / 2));
        let questions = Semaphore::new(connections.div_ceil(2));
        let Place { name, transport, writing } = Place::of(reference, &parameters, &settings)?;
        // buckets of the same name may be with different servers
        let kept_as = match (&writing, &parameters.s3.endpoint) {
            (Writing::Bucket(_), Some(endpoint)) => format!("{name}?endpoint={endpoint}"),
            _ => name.clone(),
        };
        let disk = match (&settings.disk_cache, &writing) {
            (_, Writing::Files(Destination::Folder(_))) | (None, _) => None,
            (Some(path), _) => Some(DiskCache::new(path, &kept_as, &settings)),
        };
        Ok(Cache {
            name,
            store_dir,
            settings,
            parameters,
            transport,
            answers: Answers::default(),
            writing,
            ahead,
            questions,
            info: Mutex::default(),
            swept: OnceCell::new(),
            disk,
        })
    }

    /// Returns what the cache tells of itself; it is asked once in a while.
    pub(crate) async fn info(&self) -> Result<CacheInfo, StoreError> {
        let mut known = self.info.lock().await;
        if let Some((_, info)) = known.as_ref().filter(|(since, _)| since.elapsed() < INFO_AGE) {
            return Ok(info.clone());
        }
        let info = self.ask_info().await?;
        *known = Some((Instant::now(), info.clone()));
        Ok(info)
    }

    /// The same, for a cache that is written to: what has no `nix-cache-info` gets one.
    pub(crate) async fn info_or_new(&self, destination: &Destination) -> Result<(), StoreError> {
        if let Destination::Folder(folder) = destination {
            let nars = folder.join("nar");
            fs_err::create_dir_all(&nars).map_err(|error| cannot_write(self, &error))?;
            self.swept.get_or_init(|| sweep(folder.clone())).await;
        }
        let read = self.transport.read(cache_info::NAME, cache_info::MAX_SIZE).await;
        if read.map_err(|error| error.of(&self.name))?.is_none() {
            let text = CacheInfo::of_new(&self.store_dir);
            match destination {
                Destination::Folder(folder) => {
                    write_whole(folder, cache_info::NAME, text.as_bytes())
                        .map_err(|error| cannot_write(self, &error))?;
                }
                Destination::Server(server) => {
                    let put = server.put(cache_info::NAME, INFO, &Upload::text(text)).await;
                    put.map_err(|error| error.of(&self.name))?;
                }
            }
        }
        self.info().await.map(drop)
    }

    async fn ask_info(&self) -> Result<CacheInfo, StoreError> {
        if let Some(disk) = &self.disk
            && let Some(text) = disk.cache_info().await
            && let Ok(info) = self.read_info(text.as_bytes())
        {
            return Ok(info);
        }
        let reading = self.transport.read(cache_info::NAME, cache_info::MAX_SIZE);
        // whoever can't say hello by then is left out: nothing that can be built waits for longer
        let Ok(read) = tokio::time::timeout(FIRST_ANSWER, reading).await else {
            let (store, seconds) = (self.name.clone(), FIRST_ANSWER.as_secs());
            return Err(StoreError::Silent {
                store,
                seconds,
                doing: "asked for its nix-cache-info",
            });
        };
        let Some(text) = read.map_err(|error| error.of(&self.name))? else {
            let is_new = match &self.writing {
                Writing::Files(Destination::Folder(folder)) => is_new(folder),
                Writing::Files(Destination::Server(_)) => false,
                Writing::Bucket(bucket) => bucket.is_empty().await,
            };
            if is_new {
                return Ok(CacheInfo::NEW);
            }
            let url = self.transport.url(cache_info::NAME);
            let reason = format!("it does not appear to be a binary cache: there is no {url}");
            return Err(self.speaks_badly(reason));
        };
        let info = self.read_info(&text)?;
        if let Some(disk) = &self.disk {
            disk.put_cache_info(String::from_utf8_lossy(&text).into_owned()).await;
        }
        Ok(info)
    }

    fn read_info(&self, text: &[u8]) -> Result<CacheInfo, StoreError> {
        let url = || self.transport.url(cache_info::NAME);
        let info = CacheInfo::parse(text).map_err(|rule| {
            self.speaks_badly(format!("it does not appear to be a binary cache: {}: {rule}", url()))
        })?;
        match &info.store_dir {
            Some(theirs) if theirs != self.store_dir.as_str() => {
                let reason = format!(
                    "it is for the store directory '{}', ours is '{}' ({})",
                    theirs.escape_default(),
                    self.store_dir,
                    url()
                );
                Err(self.speaks_badly(reason))
            }
            _ => Ok(info),
        }
    }

    pub(crate) fn speaks_badly(&self, reason: String) -> StoreError {
        StoreError::Protocol { store: self.name.clone(), reason }
    }

    /// Says what is known of paths, in the order of the question.
    pub(crate) async fn ask(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<Arc<NarInfo>>>, StoreError> {
        self.info().await?;
        let mut found: HashMap<&StorePath, Option<Arc<NarInfo>>> = HashMap::new();
        let mut unknown: Vec<StorePath> = Vec::new();
        for path in paths {
            if found.contains_key(path) {
                continue;
            }
            let known = self.answers.get(path);
            if known.is_none() {
                unknown.push(path.clone());
            }
            found.insert(path, known);
        }
        if let Some(disk) = self.disk.as_ref().filter(|_| !unknown.is_empty()) {
            let said = disk.look_up(unknown.clone()).await;
            unknown.retain(|path| match said.get(path) {
                Some(Said::Absent) => false,
                Some(Said::Present(text)) => !self.remember(path, text, &mut found),
                None => true,
            });
        }
        let some: Vec<Vec<StorePath>> =
            unknown.chunks(self.transport.together()).map(<[StorePath]>::to_vec).collect();
        let asked: Vec<Vec<(StorePath, Told)>> = stream::iter(some)
            .map(|paths| self.ask_some(paths))
            .buffer_unordered(self.settings.connections())
            .try_collect()
            .await
            .map_err(|error: TransferError| error.of(&self.name))?;
        let asked: Vec<(StorePath, Told)> = asked.into_iter().flatten().collect();
        self.put_on_disk(&asked).await;
        for (path, answer) in &asked {
            if let (Some(slot), Told::Present(answer)) = (found.get_mut(path), answer) {
                *slot = Some(answer.clone());
            }
        }
        Ok(paths.iter().map(|path| found.get(path).cloned().flatten()).collect())
    }

    /// The same, without what is remembered that others may have changed: for who writes.
    pub(crate) async fn ask_anew(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<Arc<NarInfo>>>, StoreError> {
        stream::iter(paths.to_vec())
            .map(|path| self.ask_one(path))
            .buffered(self.settings.connections())
            .map_ok(|(_, told)| match told {
                Told::Present(narinfo) => Some(narinfo),
                Told::Absent | Told::Badly => None,
            })
            .try_collect()
            .await
            .map_err(|error: TransferError| error.of(&self.name))
    }

    /// Takes an answer from the disk. Returns whether it is good.
    fn remember(
        &self,
        path: &StorePath,
        text: &[u8],
        found: &mut HashMap<&StorePath, Option<Arc<NarInfo>>>,
    ) -> bool {
        let Ok(narinfo) = NarInfo::parse(text, &self.store_dir) else { return false };
        if narinfo.answers(path).is_err() {
            return false;
        }
        let narinfo = Arc::new(narinfo);
        self.answers.put(narinfo.clone());
        if let Some(slot) = found.get_mut(path) {
            *slot = Some(narinfo);
        }
        true
    }

    /// Asks for some paths in one go.
    async fn ask_some(
        &self,
        paths: Vec<StorePath>,
    ) -> Result<Vec<(StorePath, Told)>, TransferError> {
        // it is never closed
        let _turn = self.questions.acquire().await.ok();
        let names: Vec<String> =
            paths.iter().map(|path| format!("{}.narinfo", path.hash_part())).collect();
        let read = self.transport.read_some(&names, NarInfo::MAX_SIZE as u64).await;
        let answers = paths.into_iter().zip(names).zip(read);
        answers.map(|((path, name), read)| self.understand(path, &name, read)).collect()
    }

    async fn ask_one(&self, path: StorePath) -> Result<(StorePath, Told), TransferError> {
        let _turn = self.questions.acquire().await.ok();
        let name = format!("{}.narinfo", path.hash_part());
        let read = self.transport.read(&name, NarInfo::MAX_SIZE as u64).await;
        self.understand(path, &name, read)
    }

    /// Reads an answer. What answers badly doesn't have the path.
    fn understand(
        &self,
        path: StorePath,
        name: &str,
        read: Result<Option<Bytes>, TransferError>,
    ) -> Result<(StorePath, Told), TransferError> {
        let text = match read {
            Ok(Some(text)) => text,
            Ok(None) => return Ok((path, Told::Absent)),
            Err(
                error @ (TransferError::TooLarge { .. }
                | TransferError::Decode { .. }
                | TransferError::Read { .. }),
            ) => {
                warn_once(&format!("{error}; the cache is taken not to have {path}"));
                return Ok((path, Told::Badly));
            }
            Err(error) => return Err(error),
        };
        let parsed = NarInfo::parse(&text, &self.store_dir);
        let answer = parsed.and_then(|narinfo| narinfo.answers(&path).map(|()| narinfo));
        match answer {
            Ok(narinfo) => {
                if narinfo.bad_signatures > 0 {
                    let (count, name) = (narinfo.bad_signatures, &self.name);
                    warn_once(&format!("{count} Sig of {path} in '{name}' are no signatures"));
                }
                let narinfo = Arc::new(narinfo);
                self.answers.put(narinfo.clone());
                Ok((path, Told::Present(narinfo)))
            }
            Err(rule) => {
                let url = self.transport.url(name);
                warn_once(&format!("{url}: {rule}; the cache is taken not to have {path}"));
                Ok((path, Told::Badly))
            }
        }
    }

    async fn put_on_disk(&self, asked: &[(StorePath, Told)]) {
        let Some(disk) = self.disk.as_ref().filter(|_| !asked.is_empty()) else { return };
        let said = asked.iter().filter_map(|(path, answer)| {
            let said = match answer {
                Told::Present(narinfo) => {
                    Said::Present(narinfo.to_text(&self.store_dir).into_bytes())
                }
                Told::Absent => Said::Absent,
                // somebody else may have spoken in its place, and the next time it speaks itself
                Told::Badly => return None,
            };
            Some((path.clone(), said))
        });
        disk.put(said.collect::<disk::Answers>()).await;
    }

    /// Forgets what was said of a path, as it was wrong.
    pub(crate) async fn forget(&self, path: &StorePath) {
        self.answers.forget(path);
        if let Some(disk) = &self.disk {
            disk.forget(path.clone()).await;
        }
    }
}

/// What a cache said of a path.
enum Told {
    Present(Arc<NarInfo>),
    Absent,
    /// Something that is no answer.
    Badly,
}
