//! The machines that commands of Nix's names build on.

use std::sync::Arc;

use drover_build_local::LocalBuilder;
use drover_fleet::Site;
use drover_store::{BuildSettings, Substitute};

use super::builds::{Askers, Builds};
use super::{BuiltBy, ThisMachine};
use crate::builders::{List, other_machines};
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::kept_logs::log_keeper;
use crate::local_store::LocalStore;
use crate::own_builder::{self, LimitsKeptBy, LocalBuildsBy};
use crate::substituters;

impl ThisMachine {
    /// Has what clients want built by this process, for a store that it keeps.
    pub(super) fn built_here(
        &self,
        store: &Arc<drover_store_local::LocalStore>,
        configuration: Configuration,
    ) -> anyhow::Result<BuiltBy> {
        substituters::tell_of_unasked(&configuration, &self.terminal);
        let builder = self.builder(&configuration, store)?;
        let places = (Some(Arc::clone(store)), builder);
        let builds = Builds::new(self, Askers::Clients, Arc::new(configuration), places)?;
        Ok(BuiltBy::ThisProcess(Arc::new(builds)))
    }

    /// Returns the machines of `builders`, or of the value that a client gave in its place, whose logs are
    /// kept in a store of this process; and this one, if a builder for it is given.
    pub(super) fn machines(
        &self,
        configuration: &Configuration,
        given: Option<&str>,
        (store, builder): (Option<&Arc<drover_store_local::LocalStore>>, Option<&LocalBuilder>),
    ) -> anyhow::Result<Vec<drover_fleet::MachineSpec>> {
        let connector = Connector::new(configuration)?;
        let local = LocalStore::choose(configuration)?;
        // what clients ask of their builds is seen to here, and may differ from client to client
        let logs = log_keeper(configuration, store);
        let usual_cores = configuration.settings.cores;
        let settings = BuildSettings { usual_cores, ..BuildSettings::default() };
        let list = List { given, settings, logs };
        let found = other_machines(configuration, list, &connector, &local, &self.terminal)?;
        let mut machines = found.machines;
        if let Some(builder) = builder.cloned() {
            let open = move || Arc::new(builder.machine()) as Arc<dyn Site>;
            let by = LocalBuildsBy::Drover;
            let this = own_builder::machine(configuration, Substitute::No, by, Arc::new(open))?;
            machines.splice(0..0, this);
        }
        Ok(machines)
    }

    /// Returns what builds on this machine, unless its settings ask for what isn't done yet.
    pub(super) fn builder(
        &self,
        configuration: &Configuration,
        store: &Arc<drover_store_local::LocalStore>,
    ) -> anyhow::Result<Option<LocalBuilder>> {
        if let Some(refusal) = own_builder::refusal(configuration, store.layout()) {
            self.terminal.warn(&format!("this machine builds nothing: {refusal}"));
            return Ok(None);
        }
        let limits = LimitsKeptBy::Caller;
        let store = Arc::clone(store);
        own_builder::builder(configuration, store, limits, None, &self.terminal).map(Some)
    }
}
