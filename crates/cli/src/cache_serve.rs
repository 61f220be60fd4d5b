//! `drover cache serve`: a store as a binary cache.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use drover_cache_server::{
    CacheServer, Listener, NarForm, Place, Settings, Signers, UploadTrust, Uploads, WriteToken,
    tls_config,
};
use drover_core::SecretKey;
use drover_store::Keeper;
use drover_store_local::Place as StorePlace;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::arguments::{CacheCompressionArgument, CacheServeArguments};
use crate::configuration::Configuration;
use crate::exit::ExitStatus;
use crate::host::raise_file_limit;
use crate::names;
use crate::own_store;
use crate::signals::Signals;
use crate::terminal::Terminal;

/// Bytes that the file of a key or a token may have.
const MAX_SECRET: u64 = 4096;
/// How long an uploaded file waits for its narinfo.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Serves until it is told to stop.
pub(crate) async fn serve(
    arguments: CacheServeArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let signals = Signals::watch()?;
    raise_file_limit();
    let configuration = Configuration::load(&arguments.settings.overrides(), terminal)?;
    let settings = settings(&arguments)?;
    let keys = settings.signers.public_keys();
    let tls = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(certificate), Some(key)) => Some(tls_config(certificate, key)?),
        _ => None,
    };
    let place: Place = arguments.listen.parse()?;
    let configuration = match &settings.uploads {
        Some(_) => configuration,
        None => only_read(configuration)?,
    };
    let store = names::keeper(&configuration, terminal)?;
    let description = store.connect().await;
    description.with_context(|| format!("store '{}' can't be served", store.name()))?;
    let mut listeners = Listener::from_service_manager()?;
    if listeners.is_empty() {
        listeners.push(Listener::bind(&place).await?);
    }
    let server = CacheServer::new(Arc::clone(&store), settings);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut running = JoinSet::new();
    for listener in listeners {
        terminal.print(&start_line(&listener, scheme, &store, &keys, &arguments))?;
        let (server, tls, first) = (server.clone(), tls.clone(), signals.first.clone());
        running.spawn(async move { server.run(listener, tls, first.cancelled()).await });
    }
    let ended = async { while running.join_next().await.is_some() {} };
    tokio::select! {
        () = ended => Ok(ExitStatus::SUCCESS),
        () = signals.second.cancelled() => Ok(ExitStatus::INTERRUPTED),
    }
}

/// Has the store be one that is there, and be opened without its locks where this user may not take them.
///
/// # Errors
///
/// A store of this machine that isn't there: nothing would ever be in it.
fn only_read(mut configuration: Configuration) -> anyhow::Result<Configuration> {
    let reference = &configuration.settings.store;
    let Some(StorePlace::Local(layout) | StorePlace::Own(layout)) = own_store::place(reference)?
    else {
        return Ok(configuration);
    };
    let database = layout.db().join("db.sqlite");
    if matches!(database.try_exists(), Ok(false)) {
        bail!(
            "store '{reference}' can't be served: there is none, as there is no '{}'; with \
             --write-token-file it is made, to be filled by uploads",
            database.display()
        );
    }
    if !own_store::is_writable(&layout.db()) {
        configuration.settings.store = reference.clone().with_param("read-only", "true");
    }
    Ok(configuration)
}

/// Says what is served where, in one line; the public keys are what clients must trust.
fn start_line(
    listener: &Listener,
    scheme: &str,
    store: &Arc<dyn Keeper>,
    keys: &[String],
    arguments: &CacheServeArguments,
) -> String {
    let place = listener.place();
    let url = match place.strip_prefix("unix:") {
        Some(path) => format!("{scheme}+unix:{path}"),
        None => format!("{scheme}://{place}"),
    };
    let mut line = format!("serving store '{}' at {url}", store.name());
    for key in keys {
        line.push_str(&format!(", signed by {key}"));
    }
    if arguments.write_token_file.is_some() {
        line.push_str(match arguments.accept_unsigned {
            true => ", taking unsigned uploads with the token",
            false => ", taking signed uploads with the token",
        });
    }
    line.push('\n');
    line
}

fn settings(arguments: &CacheServeArguments) -> anyhow::Result<Settings> {
    let mut keys = Vec::new();
    for file in &arguments.sign_key_files {
        let text = secret(file, "--sign-key-file")?;
        let unusable = || format!("--sign-key-file: '{}' can't be used", file.display());
        let key: SecretKey = text.parse().with_context(unusable)?;
        keys.push(key);
    }
    Ok(Settings {
        signers: Signers::new(keys),
        priority: arguments.priority,
        mass_query: !arguments.no_mass_query,
        form: match arguments.compression {
            CacheCompressionArgument::Zstd => NarForm::Zstd,
            CacheCompressionArgument::None => NarForm::Plain,
        },
        level: arguments.compression_level,
        uploads: uploads(arguments)?,
        memory: arguments.memory,
        connections: arguments.max_connections,
        ..Settings::usual()
    })
}

fn uploads(arguments: &CacheServeArguments) -> anyhow::Result<Option<Uploads>> {
    let Some(file) = &arguments.write_token_file else { return Ok(None) };
    let text = secret(file, "--write-token-file")?;
    let Some(token) = WriteToken::new(text.as_str()) else {
        bail!(
            "--write-token-file: the token in '{}' must have {} characters at least; \
             'openssl rand -hex 32' makes a good one",
            file.display(),
            WriteToken::SHORTEST
        );
    };
    Ok(Some(Uploads {
        token,
        trust: match arguments.accept_unsigned {
            true => UploadTrust::ByToken,
            false => UploadTrust::BySignature,
        },
        folder: std::env::temp_dir(),
        largest_file: arguments.max_upload,
        most_waiting: arguments.max_upload.saturating_mul(4),
        patience: PATIENCE,
    }))
}

/// Reads what nobody else may know.
fn secret(file: &Path, flag: &str) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let unusable = || format!("{flag}: '{}' can't be used", file.display());
    let opened = fs_err::File::open(file).with_context(unusable)?;
    opened.take(MAX_SECRET).read_to_string(&mut text).with_context(unusable)?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}
