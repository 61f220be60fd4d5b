//! `nix path-info`.
//!
//! Follows `src/nix/path-info.cc` and `UnkeyedValidPathInfo::toJSON`
//! (`src/libstore/path-info.cc`) of Nix 2.34.

use std::collections::BTreeMap;

use drover_core::{HashNotation, IngestionMethod, PathInfo, StorePath};
use drover_store::Store;
use serde_json::{Map, Value, json};

use super::request::{JsonFormat, Layout, PathInfoStyle, Reports, Sizes};
use super::run::{Session, Stop};
use crate::closure::{closure, path_infos};
use crate::error::CompatError;
use crate::size::render_aligned_size;

/// Prints what is known of paths.
pub(super) async fn print_path_infos(
    store: &dyn Store,
    paths: Vec<StorePath>,
    style: PathInfoStyle,
    session: &mut Session<'_>,
) -> Result<(), Stop> {
    if style.layout == Layout::Text {
        let infos = path_infos(store, &paths).await?;
        let width =
            infos.iter().map(|info| store.store_dir().display(&info.path).len()).max().unwrap_or(0);
        for info in &infos {
            let line = text(store, info, width, style).await?;
            session.console.line(line).await?;
        }
        return Ok(());
    }
    if style.format == JsonFormat::Unsaid {
        let text = "'--json' without '--json-format' is deprecated; please specify '--json-format 1' \
                    or '--json-format 2'. This will become an error in a future release.";
        session.console.warn(text).await?;
    }
    let told = all_as_json(store, &paths, style).await?;
    let text = match session.is_pretty(style.layout) {
        true => format!("{told:#}"),
        false => told.to_string(),
    };
    Ok(session.console.line(text).await?)
}

/// Returns the sum of the sizes of a path and all that it refers to.
async fn closure_size(store: &dyn Store, path: &StorePath) -> Result<u64, CompatError> {
    let infos = closure(store, [path.clone()]).await?;
    Ok(infos.values().fold(0, |sum: u64, info| sum.saturating_add(info.nar_size.0)))
}

async fn text(
    store: &dyn Store,
    info: &PathInfo,
    width: usize,
    style: PathInfoStyle,
) -> Result<String, CompatError> {
    let path = store.store_dir().display(&info.path);
    let (size, closure, signatures) = (style.size, style.closure_size, style.signatures);
    if [size, closure, signatures] == [Reports::No; 3] {
        return Ok(path);
    }
    let shown = |size| match style.sizes {
        Sizes::Human => format!("\t{}", render_aligned_size(size)),
        Sizes::Bytes => format!("\t{size:>11}"),
    };
    let mut line = format!("{path:width$}");
    if size == Reports::Yes {
        line.push_str(&shown(info.nar_size.0));
    }
    if closure == Reports::Yes {
        line.push_str(&shown(closure_size(store, &info.path).await?));
    }
    if signatures == Reports::Yes {
        let mut words = Vec::new();
        words.extend(info.ultimate.then(|| "ultimate".to_owned()));
        words.extend(info.content_address.as_ref().map(|address| format!("ca:{address}")));
        words.extend(info.signatures.iter().map(ToString::to_string));
        line.push('\t');
        line.push_str(&words.join(" "));
    }
    Ok(line)
}

async fn all_as_json(
    store: &dyn Store,
    paths: &[StorePath],
    style: PathInfoStyle,
) -> Result<Value, CompatError> {
    let store_dir = store.store_dir();
    let mut told = BTreeMap::new();
    for (path, info) in paths.iter().zip(store.path_infos(paths).await?) {
        let mut value = info.map_or(Value::Null, |info| as_json(store, &info, style.format));
        if let (Value::Object(fields), Reports::Yes) = (&mut value, style.closure_size) {
            fields.insert("closureSize".to_owned(), closure_size(store, path).await?.into());
        }
        let key = match style.format {
            JsonFormat::V2 => path.base_name().to_owned(),
            JsonFormat::V1 | JsonFormat::Unsaid => store_dir.display(path),
        };
        told.insert(key, value);
    }
    let told = Value::Object(Map::from_iter(told));
    Ok(match style.format {
        JsonFormat::V1 | JsonFormat::Unsaid => told,
        JsonFormat::V2 => json!({ "version": 2, "storeDir": store_dir.as_str(), "info": told }),
    })
}

fn as_json(store: &dyn Store, info: &PathInfo, format: JsonFormat) -> Value {
    let shown = |path: &StorePath| match format {
        JsonFormat::V2 => path.base_name().to_owned(),
        JsonFormat::V1 | JsonFormat::Unsaid => store.store_dir().display(path),
    };
    let (version, address) = match format {
        JsonFormat::V1 | JsonFormat::Unsaid => {
            (1, info.content_address.as_ref().map(|address| Value::from(address.to_string())))
        }
        JsonFormat::V2 => {
            let address = info.content_address.as_ref().map(|address| {
                let method = match address.method {
                    IngestionMethod::Flat => "flat",
                    IngestionMethod::Nar => "nar",
                    IngestionMethod::Git => "git",
                    IngestionMethod::Text => "text",
                };
                json!({ "method": method, "hash": address.hash.display(HashNotation::Sri) })
            });
            (2, address)
        }
    };
    let time = Some(info.registration_time).filter(|time| *time != 0);
    json!({
        "version": version,
        "storeDir": store.store_dir().as_str(),
        "narHash": info.nar_hash.to_hash().display(HashNotation::Sri),
        "narSize": info.nar_size.0,
        "references": info.references.iter().map(shown).collect::<Vec<_>>(),
        "ca": address,
        "deriver": info.deriver.as_ref().map(shown),
        "registrationTime": time,
        "ultimate": info.ultimate,
        "signatures": info.signatures.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
