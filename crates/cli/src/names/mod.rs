//! The commands that others call by the names of Nix's programs, and some of drover's own that do
//! the same: what `drover-compat` needs of this machine.

mod ahead;
mod builds;
mod control;
mod daemon;
mod detached;
mod ending;
mod hooks;
mod machines;
mod programs;
mod serve;
mod served;
mod signals;
mod signer;
mod stamps;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Once};

use async_trait::async_trait;
use drover_compat::{
    About, Captured, CompatError, DaemonRequest, Destination, ExitStatus, Host, HostSettings,
    Input, Options, Output, Program, ServeAccess,
};
use drover_config::{Override, StoreReference, User};
use drover_store::{Keeper, Realiser, Store};
use drover_store_local::{Layout, Place};
use drover_store_remote::RemoteStore;

use self::ending::{BuiltBy, Ending};
pub(crate) use self::hooks::ForHooks;
use crate::address::{address, connections};
use crate::caches;
use crate::configuration::Configuration;
use crate::connector::{Connector, bounded};
use crate::own_store;
use crate::standing;
use crate::substituters;
use crate::terminal::Terminal;
use crate::variables::variable;

/// The release of Nix whose behaviour is followed, as programs tell it that ask for the version.
pub(crate) const NIX_VERSION: &str = "2.34.8";

/// Runs a command as Nix's program of that name would.
pub(crate) async fn run(
    program: Program,
    arguments: Vec<OsString>,
    terminal: &Terminal,
) -> crate::exit::ExitStatus {
    let machine = ThisMachine::new(terminal);
    let is_derivation = |argument: &OsString| argument.to_string_lossy().contains(".drv");
    if program == Program::NixBuild && !arguments.iter().any(is_derivation) {
        // its evaluator warns of them
        machine.unknown_settings.call_once(|| {});
    }
    let command = drover_compat::run(program, arguments, &machine);
    crate::exit::ExitStatus(machine.ending.after(command, terminal).await.0)
}

/// Runs one of drover's own words that has those of a command of Nix.
pub(crate) async fn run_own(
    arguments: Vec<OsString>,
    terminal: &Terminal,
) -> crate::exit::ExitStatus {
    let machine = ThisMachine::new(terminal);
    let command = drover_compat::run_own(arguments, "drover", &machine);
    crate::exit::ExitStatus(machine.ending.after(command, terminal).await.0)
}

/// Runs the daemon that schedules the builds of stock Nix's hooks.
pub(crate) async fn serve_hooks<R: FnOnce()>(
    overrides: Vec<Override>,
    hooks: ForHooks<'_, R>,
    terminal: &Terminal,
) -> anyhow::Result<()> {
    let machine = ThisMachine::new(terminal);
    let options = Options { overrides, ..Options::default() };
    hooks::run(&machine, &options, hooks).await
}

/// Opens the store of the settings as its keeper sees it.
///
/// # Errors
///
/// A kind of store that can't be opened so.
pub(crate) fn keeper(
    configuration: &Configuration,
    terminal: &Terminal,
) -> anyhow::Result<Arc<dyn Keeper>> {
    let machine = ThisMachine::new(terminal);
    Ok(match machine.open(None, configuration)? {
        Opened::Own(store) => store,
        Opened::Remote(store) => store,
    })
}

/// This machine, its settings and its stores.
#[derive(Clone)]
struct ThisMachine {
    terminal: Terminal,
    ending: Arc<Ending>,
    /// Done when the user has been warned of settings that nobody knows.
    unknown_settings: Arc<Once>,
}

/// Turns an error into one that is printed as it is.
fn failed(error: &anyhow::Error) -> CompatError {
    CompatError::Failed { message: format!("{error:#}") }
}

fn destination(stream: &impl std::io::IsTerminal) -> Destination {
    match stream.is_terminal() {
        true => Destination::Terminal,
        false => Destination::Elsewhere,
    }
}

/// A store as its keeper sees it, and what is known of where it is.
enum Opened {
    /// Its files are at hand.
    Own(Arc<drover_store_local::LocalStore>),
    /// Somebody else keeps it.
    Remote(Arc<RemoteStore>),
}

impl ThisMachine {
    fn new(terminal: &Terminal) -> ThisMachine {
        let unknown_settings = Arc::new(Once::new());
        ThisMachine { terminal: terminal.clone(), ending: Arc::default(), unknown_settings }
    }

    fn configuration(&self, options: &Options) -> Result<Configuration, CompatError> {
        let configuration = Configuration::load_beside_nix(&options.overrides, &self.terminal);
        let configuration = configuration.map_err(|error| failed(&error))?;
        self.unknown_settings.call_once(|| configuration.warn_of_unknown(&self.terminal));
        Ok(configuration)
    }

    fn open(
        &self,
        reference: Option<&StoreReference>,
        configuration: &Configuration,
    ) -> anyhow::Result<Opened> {
        let reference = reference.unwrap_or(&configuration.settings.store);
        let Some(place) = own_store::place(reference)? else {
            return self.open_remote(reference, configuration);
        };
        match place {
            Place::Local(layout) => self.open_own(layout, reference, configuration),
            Place::Own(layout) => {
                if !layout.state.exists() {
                    self.terminal.warn(&format!(
                        "'/nix' does not exist, so drover will use '{}' as a chroot store",
                        layout.name
                    ));
                }
                self.open_own(layout, reference, configuration)
            }
            Place::Daemon(socket) => {
                let connector = Connector::new(configuration)?;
                let address = drover_store_remote::Address::Socket(socket);
                let settings = configuration.client_settings();
                let store_dir = &configuration.store_dir;
                let store = connector.open("daemon", store_dir, &address, &settings);
                // its protocol doesn't tell logs, but they are on this machine
                let store = store.with_log_dir(configuration.host.log_dir.clone());
                Ok(Opened::Remote(Arc::new(store)))
            }
        }
    }

    fn open_own(
        &self,
        layout: Layout,
        reference: &StoreReference,
        configuration: &Configuration,
    ) -> anyhow::Result<Opened> {
        let conf = &configuration.conf;
        let settings = own_store::settings_of(reference, &configuration.settings)?;
        let store = own_store::open(layout, &settings, conf)?;
        let sources = substituters::sources(configuration, None);
        Ok(Opened::Own(Arc::new(store.substituting_from(sources))))
    }

    fn open_remote(
        &self,
        reference: &StoreReference,
        configuration: &Configuration,
    ) -> anyhow::Result<Opened> {
        let connector = Connector::new(configuration)?;
        let address = address(reference, &configuration.host.daemon_socket())?;
        let store_dir = match reference.param("store").filter(|_| !reference.scheme().is_ssh()) {
            Some(dir) => dir.parse()?,
            None => configuration.store_dir.clone(),
        };
        let settings = configuration.client_settings();
        let store = connector.open(&reference.to_string(), &store_dir, &address, &settings);
        Ok(Opened::Remote(Arc::new(bounded(store, connections(reference)?))))
    }

    /// Returns what builds for a store. Where a daemon keeps it, that is the daemon; so it is where
    /// drover's own stands before it, as all builds go through one scheduler then.
    fn built_by(&self, opened: &Opened, configuration: Configuration) -> anyhow::Result<BuiltBy> {
        let store = match opened {
            Opened::Remote(store) => return Ok(BuiltBy::Daemon(Arc::new(store.realiser()))),
            Opened::Own(store) => store,
        };
        let layout = store.layout();
        let Some(socket) = standing::daemon_of(&layout.state) else {
            return self.built_here(store, configuration);
        };
        let connector = Connector::new(&configuration)?;
        let address = drover_store_remote::Address::Socket(socket);
        let settings = configuration.client_settings();
        let daemon = connector.open("daemon", &layout.store_dir, &address, &settings);
        Ok(BuiltBy::Daemon(Arc::new(daemon.realiser())))
    }
}

#[async_trait]
impl Host for ThisMachine {
    fn nix_version(&self) -> String {
        NIX_VERSION.to_owned()
    }

    fn about(&self, options: &Options) -> Result<About, CompatError> {
        let Configuration { settings, host, store_dir, .. } = self.configuration(options)?;
        let mut user_files = host.environment.user_conf_files();
        user_files.reverse();
        Ok(About {
            system: settings.system,
            extra_systems: settings.extra_platforms.into_iter().collect(),
            system_file: host.environment.conf_dir().join("nix.conf"),
            user_files,
            store_dir,
            state_dir: host.state_dir,
        })
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        variable(name)
    }

    fn working_dir(&self) -> PathBuf {
        std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"))
    }

    fn user(&self) -> User {
        match rustix::process::geteuid().is_root() {
            true => User::Root,
            false => User::Other,
        }
    }

    fn state_dir(&self) -> PathBuf {
        crate::host::Host::of_this_process().state_dir
    }

    fn destination(&self) -> Destination {
        destination(&std::io::stdout())
    }

    fn destination_of_messages(&self) -> Destination {
        destination(&std::io::stderr())
    }

    fn stdin(&self) -> Input {
        Box::new(tokio::io::stdin())
    }

    fn stdout(&self) -> Output {
        Box::new(tokio::io::stdout())
    }

    fn stderr(&self) -> Output {
        Box::new(tokio::io::stderr())
    }

    fn settings(&self, options: &Options) -> Result<HostSettings, CompatError> {
        let Configuration { settings, conf, .. } = self.configuration(options)?;
        Ok(HostSettings { settings, text: conf })
    }

    async fn keeper(
        &self,
        address: Option<&StoreReference>,
        options: &Options,
    ) -> Result<Arc<dyn Keeper>, CompatError> {
        let configuration = self.configuration(options)?;
        match self.open(address, &configuration).map_err(|error| failed(&error))? {
            Opened::Own(store) => Ok(store),
            Opened::Remote(store) => Ok(store),
        }
    }

    async fn store(
        &self,
        address: Option<&StoreReference>,
        options: &Options,
    ) -> Result<Arc<dyn Store>, CompatError> {
        let configuration = self.configuration(options)?;
        let named = address.unwrap_or(&configuration.settings.store);
        if caches::is_one(named) {
            let cache = caches::open(named, &configuration).map_err(|error| failed(&error))?;
            return Ok(Arc::new(cache));
        }
        match self.open(address, &configuration).map_err(|error| failed(&error))? {
            Opened::Own(store) => Ok(store),
            Opened::Remote(store) => Ok(store),
        }
    }

    async fn realiser(&self, options: &Options) -> Result<Arc<dyn Realiser>, CompatError> {
        let configuration = self.configuration(options)?;
        let opened = self.open(None, &configuration).map_err(|error| failed(&error))?;
        let built_by = self.built_by(&opened, configuration).map_err(|error| failed(&error))?;
        self.ending.of(built_by).map_err(|error| failed(&error.into()))
    }

    async fn run_daemon(
        &self,
        request: DaemonRequest,
        options: &Options,
    ) -> Result<ExitStatus, CompatError> {
        daemon::run(self, request, options).await
    }

    async fn run_serve(
        &self,
        access: ServeAccess,
        options: &Options,
    ) -> Result<ExitStatus, CompatError> {
        serve::serve(self, access, options).await
    }

    async fn exec_real(
        &self,
        program: &str,
        arguments: &[OsString],
    ) -> Result<ExitStatus, CompatError> {
        programs::exec(program, arguments)
    }

    async fn capture_real(
        &self,
        program: &str,
        arguments: &[OsString],
    ) -> Result<Captured, CompatError> {
        programs::capture(program, arguments).await
    }
}
