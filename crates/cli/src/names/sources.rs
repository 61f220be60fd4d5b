//! The stores of `substituters` that can be opened: where damaged paths are fetched from.
//!
//! Binary caches are none of them yet; whoever needs one is told so by its name.

use std::sync::Arc;

use drover_config::StoreReference;
use drover_store::Store;
use drover_store_local::{Place, Sources};
use drover_store_remote::AddressError;

use super::{Opened, ThisMachine};
use crate::address::address;
use crate::configuration::Configuration;
use crate::own_store;

impl ThisMachine {
    /// Returns where damaged paths are fetched from, and of those that can't be asked, why. Nothing is
    /// connected before it is needed.
    pub(super) fn sources(&self, configuration: &Configuration) -> Sources {
        let mut sources = Sources::default();
        let settings = &configuration.settings;
        for reference in settings.substituters.iter().filter(|_| settings.substitute) {
            match self.source(reference, configuration) {
                Ok(store) => sources.stores.push(store),
                Err(why) => sources.unasked.push(why),
            }
        }
        sources
    }

    fn source(
        &self,
        reference: &StoreReference,
        configuration: &Configuration,
    ) -> Result<Arc<dyn Store>, String> {
        let unusable = |error: &dyn std::fmt::Display| {
            format!("substituter '{reference}' was not asked: {error}")
        };
        if let Ok(Place::Local(layout) | Place::Own(layout)) = own_store::place(reference) {
            let Configuration { settings, conf, .. } = configuration;
            let opened = own_store::open(layout, settings, conf);
            let store = opened.map_err(|error| unusable(&format!("{error:#}")))?;
            return Ok(Arc::new(store));
        }
        match address(reference, &configuration.host.daemon_socket()) {
            Ok(_) => {}
            Err(AddressError::Scheme { .. }) => {
                return Err(unusable(&"drover can't fetch from binary caches yet"));
            }
            Err(error) => return Err(unusable(&error)),
        }
        match self.open_remote(reference, configuration) {
            Ok(Opened::Own(store)) => Ok(store),
            Ok(Opened::Remote(store)) => Ok(store),
            Err(error) => Err(unusable(&format!("{error:#}"))),
        }
    }
}
