//! The stores of `substituters`: where paths come from that need not be built.
//!
//! Binary caches are none of them yet; whoever needs one is told so by its name.

use std::fmt::Display;
use std::sync::Arc;

use drover_config::{Scheme, StoreReference};
use drover_store::{FetchObserver, Store, Substituter, Vouching};
use drover_store_local::{Forbidden, OpenSubstituters, Place, Sources};

use crate::address::{address, connections};
use crate::configuration::Configuration;
use crate::connector::{Connector, bounded};
use crate::own_store;

/// Returns where paths come from that need not be built, and of the substituters that can't be
/// asked, why. Nothing is connected before it is needed.
///
/// # Errors
///
/// Nothing can be connected at all.
pub(crate) fn sources(
    configuration: &Configuration,
    observer: Option<Arc<dyn FetchObserver>>,
) -> anyhow::Result<Sources> {
    let settings = &configuration.settings;
    let forbidden = match settings.always_allow_substitutes {
        true => Forbidden::Ignore,
        false => Forbidden::Heed,
    };
    if !settings.substitute {
        return Ok(Sources { forbidden, observer, ..Sources::default() });
    }
    let connector = Connector::new(configuration)?;
    let (substituters, unasked) = open_all(&settings.substituters, configuration, &connector);
    let configuration = configuration.clone();
    let open = move |names: &str| {
        let (mut references, mut unusable) = (Vec::new(), Vec::new());
        for name in names.split_whitespace() {
            match name.parse() {
                Ok(reference) => references.push(reference),
                Err(error) => unusable.push(was_not_asked(&name, &error)),
            }
        }
        let (substituters, unasked) = open_all(&references, &configuration, &connector);
        (substituters, [unusable, unasked].concat())
    };
    let open = Some(Arc::new(open) as OpenSubstituters);
    Ok(Sources { substituters, unasked, forbidden, observer, open })
}

fn was_not_asked(name: &dyn Display, why: &dyn Display) -> String {
    format!("substituter '{name}' was not asked: {why:#}")
}

/// Opens them, those first that count most, and says why others can't be asked.
fn open_all(
    references: &[StoreReference],
    configuration: &Configuration,
    connector: &Connector,
) -> (Vec<Substituter>, Vec<String>) {
    let (mut found, mut unasked) = (Vec::new(), Vec::new());
    for reference in references {
        match open(reference, configuration, connector) {
            Ok(one) => found.push(one),
            Err(error) => unasked.push(was_not_asked(reference, &error)),
        }
    }
    // of equal ones the first counts, as in Nix
    found.sort_by_key(|(priority, _)| *priority);
    (found.into_iter().map(|(_, substituter)| substituter).collect(), unasked)
}

/// Opens one of them. Lower numbers come first.
fn open(
    reference: &StoreReference,
    configuration: &Configuration,
    connector: &Connector,
) -> anyhow::Result<(i64, Substituter)> {
    // what a store is if it doesn't say (`priority` of `StoreConfig` in Nix)
    let priority = match reference.param("priority") {
        Some(text) => text
            .parse()
            .map_err(|_| anyhow::anyhow!("its priority is '{text}' and must be a whole number"))?,
        None => 0,
    };
    let vouching = match reference.param("trusted") {
        None | Some("" | "false" | "no" | "0") => Vouching::Signature,
        Some("true" | "yes" | "1") => Vouching::Substituter,
        Some(text) => anyhow::bail!("its 'trusted' is '{text}' and must be 'true' or 'false'"),
    };
    let store = open_store(reference, configuration, connector)?;
    Ok((priority, Substituter { store, vouching }))
}

fn open_store(
    reference: &StoreReference,
    configuration: &Configuration,
    connector: &Connector,
) -> anyhow::Result<Arc<dyn Store>> {
    if let Ok(Place::Local(layout) | Place::Own(layout)) = own_store::place(reference) {
        let Configuration { settings, conf, .. } = configuration;
        return Ok(Arc::new(own_store::open(layout, settings, conf)?));
    }
    if matches!(reference.scheme(), Scheme::File | Scheme::Http | Scheme::Https | Scheme::S3) {
        anyhow::bail!("drover can't fetch from binary caches yet");
    }
    let address = address(reference, &configuration.host.daemon_socket())?;
    let store_dir = match reference.param("store").filter(|_| !reference.scheme().is_ssh()) {
        Some(dir) => dir.parse()?,
        None => configuration.store_dir.clone(),
    };
    let settings = configuration.client_settings();
    let store = connector.open(&reference.to_string(), &store_dir, &address, &settings);
    Ok(Arc::new(bounded(store, connections(reference)?)))
}
