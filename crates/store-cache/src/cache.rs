//! A binary cache: what it tells of itself and of paths.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use drover_config::{Host, StoreReference};
use drover_core::{NarInfo, StoreDir, StorePath};
use drover_store::StoreError;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::Url;
use tokio::sync::{OnceCell, Semaphore};

use crate::answers::Answers;
use crate::cache_info::{self, CacheInfo};
use crate::disk::{self, DiskCache, Said};
use crate::error::{CacheError, TransferError};
use crate::file::FileTransport;
use crate::http::HttpTransport;
use crate::netrc::Credentials;
use crate::push;
use crate::settings::{CacheSettings, Parameters, check_scheme};
use crate::transport::Transport;

/// How long a cache may take to say that it is one, with all attempts.
const FIRST_ANSWER: Duration = Duration::from_secs(20);

/// What all requests to one cache share.
pub(crate) struct Cache {
    pub(crate) name: String,
    pub(crate) store_dir: StoreDir,
    pub(crate) settings: CacheSettings,
    pub(crate) parameters: Parameters,
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) answers: Answers,
    /// Who fetches NARs ahead of those that are awaited.
    pub(crate) ahead: Arc<Semaphore>,
    /// Where it is in this machine's files, if it is.
    pub(crate) folder: Option<PathBuf>,
    questions: Semaphore,
    info: OnceCell<CacheInfo>,
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
        let (name, transport, folder): (_, Box<dyn Transport>, _) =
            if *reference.scheme() == drover_config::Scheme::File {
                let folder = Path::new(reference.path()).to_owned();
                let name = format!("file://{}", folder.display());
                (name, Box::new(FileTransport::new(folder.clone())), Some(folder))
            } else {
                let (base, credentials) = base_url(reference)?;
                let name = base.as_str().trim_end_matches('/').to_owned();
                (name, Box::new(HttpTransport::new(base, credentials, settings.clone())), None)
            };
        let disk = match (&settings.disk_cache, &folder) {
            (Some(path), None) => Some(DiskCache::new(path, &name, &settings)),
            _ => None,
        };
        Ok(Cache {
            name,
            store_dir,
            settings,
            parameters,
            transport,
            answers: Answers::default(),
            ahead,
            folder,
            questions,
            info: OnceCell::new(),
            disk,
        })
    }

    /// Returns what the cache tells of itself; it is asked once.
    pub(crate) async fn info(&self) -> Result<&CacheInfo, StoreError> {
        self.info.get_or_try_init(|| self.ask_info()).await
    }

    /// The same, for a cache that is written to: what has no `nix-cache-info` gets one.
    pub(crate) async fn info_or_new(&self, folder: &Path) -> Result<(), StoreError> {
        let nars = folder.join("nar");
        let refuse = |error: std::io::Error| push::cannot_write(self, &error);
        fs_err::create_dir_all(nars).map_err(refuse)?;
        let read = self.transport.read(cache_info::NAME, cache_info::MAX_SIZE).await;
        if read.map_err(|error| error.of(&self.name))?.is_none() {
            let text = CacheInfo::of_new(&self.store_dir);
            push::write_whole(folder, cache_info::NAME, text.as_bytes()).map_err(refuse)?;
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
            if self.folder.as_ref().is_some_and(|folder| is_new(folder)) {
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
        let asked: Vec<(StorePath, Told)> = stream::iter(unknown)
            .map(|path| self.ask_one(path))
            .buffer_unordered(self.settings.connections())
            .try_collect()
            .await
            .map_err(|error: TransferError| error.of(&self.name))?;
        self.put_on_disk(&asked).await;
        for (path, answer) in &asked {
            if let (Some(slot), Told::Present(answer)) = (found.get_mut(path), answer) {
                *slot = Some(answer.clone());
            }
        }
        Ok(paths.iter().map(|path| found.get(path).cloned().flatten()).collect())
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

    /// Asks for one path. What answers badly doesn't have it.
    async fn ask_one(&self, path: StorePath) -> Result<(StorePath, Told), TransferError> {
        let Ok(_turn) = self.questions.acquire().await else { return Ok((path, Told::Badly)) };
        let name = format!("{}.narinfo", path.hash_part());
        let read = self.transport.read(&name, NarInfo::MAX_SIZE as u64).await;
        let text = match read {
            Ok(Some(text)) => text,
            Ok(None) => return Ok((path, Told::Absent)),
            Err(
                error @ (TransferError::TooLarge { .. }
                | TransferError::Decode { .. }
                | TransferError::Read { .. }),
            ) => {
                tracing::warn!("{error}; the cache is taken not to have {path}");
                return Ok((path, Told::Badly));
            }
            Err(error) => return Err(error),
        };
        let parsed = NarInfo::parse(&text, &self.store_dir);
        let answer = parsed.and_then(|narinfo| narinfo.answers(&path).map(|()| narinfo));
        match answer {
            Ok(narinfo) => {
                if narinfo.bad_signatures > 0 {
                    let count = narinfo.bad_signatures;
                    tracing::warn!("{count} Sig of {path} in '{}' are no signatures", self.name);
                }
                let narinfo = Arc::new(narinfo);
                self.answers.put(narinfo.clone());
                Ok((path, Told::Present(narinfo)))
            }
            Err(rule) => {
                let url = self.transport.url(&name);
                tracing::warn!("{url}: {rule}; the cache is taken not to have {path}");
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

/// Whether a folder is a cache to be: empty, or not even there.
fn is_new(folder: &Path) -> bool {
    match folder.read_dir() {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Returns a cache's URL, which ends with a slash, and what the address says of who asks.
fn base_url(reference: &StoreReference) -> Result<(Url, Option<Credentials>), CacheError> {
    let refuse = |reason: &str| CacheError::Address {
        address: format!("{}://…{}", reference.scheme().as_str(), reference.path()),
        reason: reason.to_owned(),
    };
    let authority = reference.authority().ok_or_else(|| refuse("it has no host"))?;
    let host = match &authority.host {
        Host::Name(name) => name.clone(),
        Host::Ipv6 { zone: Some(_), .. } => return Err(refuse("a zone can't be in a URL")),
        Host::Ipv6 { address, zone: None } => format!("[{address}]"),
    };
    let mut url = Url::parse(&format!("{}://{host}/", reference.scheme().as_str()))
        .map_err(|error| refuse(&error.to_string()))?;
    url.set_port(authority.port).map_err(|()| refuse("it can't have a port"))?;
    // Setting the path encodes what must be, but for the percent sign itself.
    let path = reference.path().trim_end_matches('/').replace('%', "%25");
    url.set_path(&format!("{path}/"));
    let credentials = authority.user.as_ref().map(|user| Credentials {
        user: user.clone(),
        password: authority.password.as_ref().map_or_else(String::new, |word| word.0.clone()),
    });
    Ok((url, credentials))
}
