//! The stores of `substituters`: where paths come from that need not be built.

use std::fmt::Display;
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use drover_config::{Settings, StoreReference};
use drover_store::{FetchObserver, Store, Substituter, Vouching};
use drover_store_local::{Forbidden, OpenSubstituters, Place, Sources};

use crate::address::{address, connections};
use crate::caches;
use crate::configuration::Configuration;
use crate::connector::{Connector, bounded};
use crate::own_store;
use crate::terminal::Terminal;

/// Returns where paths come from that need not be built, and of the substituters that can't be
/// asked, why. Nothing is connected before it is needed.
pub(crate) fn sources(
    configuration: &Configuration,
    observer: Option<Arc<dyn FetchObserver>>,
) -> Sources {
    let settings = &configuration.settings;
    let forbidden = match settings.always_allow_substitutes {
        true => Forbidden::Ignore,
        false => Forbidden::Heed,
    };
    if !settings.substitute {
        return Sources { forbidden, observer, ..Sources::default() };
    }
    let opener = Opener { configuration: configuration.clone(), connector: OnceLock::new() };
    let (substituters, unasked) = opener.open_all(&settings.substituters);
    let unasked = no_stores(settings).chain(unasked).collect();
    let open = move |names: &str| {
        let (mut references, mut unusable) = (Vec::new(), Vec::new());
        for name in names.split_whitespace() {
            match name.parse() {
                Ok(reference) => references.push(reference),
                Err(error) => unusable.push(was_not_asked(&name, &error)),
            }
        }
        let (substituters, unasked) = opener.open_all(&references);
        (substituters, [unusable, unasked].concat())
    };
    let open = Some(Arc::new(open) as OpenSubstituters);
    Sources { substituters, unasked, forbidden, observer, open }
}

/// Says which substituters can't be asked, and why. Nothing is connected.
pub(crate) fn tell_of_unasked(configuration: &Configuration, terminal: &Terminal) {
    for why in sources(configuration, None).unasked {
        terminal.warn(&why);
    }
}

/// Says what is in the place of substituters and is no store.
fn no_stores(settings: &Settings) -> impl Iterator<Item = String> {
    let no_stores = settings.unusable_substituters.iter();
    no_stores.map(|why| format!("a substituter was not asked: {why}"))
}

fn was_not_asked(name: &dyn Display, why: &dyn Display) -> String {
    format!("substituter '{name}' was not asked: {why:#}")
}

/// Opens substituters.
struct Opener {
    configuration: Configuration,
    /// Made when the first needs it.
    connector: OnceLock<Connector>,
}

impl Opener {
    /// Opens them, and says why others can't be asked.
    fn open_all(&self, references: &[StoreReference]) -> (Vec<Substituter>, Vec<String>) {
        let (mut found, mut unasked) = (Vec::new(), Vec::new());
        for reference in references {
            match self.open(reference) {
                Ok(substituter) => found.push(substituter),
                Err(error) => unasked.push(was_not_asked(reference, &error)),
            }
        }
        (found, unasked)
    }

    fn open(&self, reference: &StoreReference) -> anyhow::Result<Substituter> {
        let priority = reference.param("priority").map(str::parse).transpose();
        let priority = priority.context("its 'priority' must be a whole number")?;
        let vouching = match reference.param("trusted") {
            None | Some("" | "false" | "no" | "0") => Vouching::Signature,
            Some("true" | "yes" | "1") => Vouching::Substituter,
            Some(text) => anyhow::bail!("its 'trusted' is '{text}' and must be 'true' or 'false'"),
        };
        let store = self.open_store(reference)?;
        Ok(Substituter { store, vouching, priority })
    }

    fn open_store(&self, reference: &StoreReference) -> anyhow::Result<Arc<dyn Store>> {
        let Configuration { settings, conf, host, store_dir, .. } = &self.configuration;
        if let Some(Place::Local(layout) | Place::Own(layout)) = own_store::place(reference)? {
            return Ok(Arc::new(own_store::open(layout, settings, conf)?));
        }
        let store_dir = match reference.param("store").filter(|_| !reference.scheme().is_ssh()) {
            Some(dir) => dir.parse()?,
            None => store_dir.clone(),
        };
        if caches::is_one(reference) {
            return Ok(Arc::new(caches::open_in(reference, store_dir, &self.configuration)?));
        }
        let address = address(reference, &host.daemon_socket())?;
        let settings = self.configuration.client_settings();
        let connector = match self.connector.get() {
            Some(connector) => connector,
            None => {
                let made = Connector::new(&self.configuration)?;
                self.connector.get_or_init(|| made)
            }
        };
        let store = connector.open(&reference.to_string(), &store_dir, &address, &settings);
        Ok(Arc::new(bounded(store, connections(reference)?)))
    }
}
