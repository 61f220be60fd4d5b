//! `drover build --detach`: what is wanted is handed to the daemon, which builds it whoever stays.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use drover_control::{Answer, DetachOrder, Request};
use drover_core::StoreDir;
use drover_fleet::Target;
use drover_store::{
    AfterFailure, BuildMode, FetchObserver, Keeper, RealiseSettings, Store, Substitute,
};
use drover_store_remote::client_options;

use crate::arguments::BuildArguments;
use crate::asked::{Asked, wanted_targets};
use crate::build::through_daemon;
use crate::builders::substitute;
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::exit::ExitStatus;
use crate::local_store::LocalStore;
use crate::progress::FetchFollower;
use crate::terminal::Terminal;
use crate::{control, own_store, substituters, units};

/// Hands over what the arguments name, prints the name that it has, and says what can be done with it.
///
/// # Errors
///
/// There is no daemon of drover, or it refuses; or what is wanted can't be found out.
pub(crate) async fn detach(
    arguments: &BuildArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let overrides = [arguments.settings.overrides(), arguments.building.overrides()].concat();
    let configuration = &Configuration::load_beside_nix(&overrides, terminal)?;
    // before anything is evaluated, which may take long
    let found = control::find_holder(configuration).await;
    found.context("builds can only be detached where a daemon of drover holds them")?;
    let local = LocalStore::choose(configuration)?;
    let store = store(configuration, &local, terminal)?;
    let roots = tempfile::tempdir().context("cannot make a temporary folder")?;
    let current_dir = configuration.host.environment.current_dir.as_path();
    let asked = Asked::of(arguments, configuration);
    let folders = (current_dir, roots.path());
    let targets = wanted_targets(asked, &local, &*store, folders, terminal).await?;
    let order = order(configuration, store.store_dir(), &targets);
    let answer = control::ask_needed(configuration, &Request::Detach(order)).await?;
    let Answer::Detached(held) = answer else {
        bail!("the daemon has answered another question");
    };
    for warning in &held.warnings {
        terminal.warn(warning);
    }
    let id = &held.id;
    let count = units::count(held.derivation_count, "derivation");
    let address = match configuration.settings.store.scheme().is_ssh() {
        true => format!(" --store {}", configuration.settings.store),
        false => String::new(),
    };
    terminal.info(&format!(
        "the daemon builds {count} for you, whether you stay or not\n  to see how it goes: drover builds \
         attach {id}{address}\n  to end it: drover builds cancel {id}{address}"
    ));
    terminal.print(id)?;
    Ok(ExitStatus::SUCCESS)
}

/// Opens the store in which what is wanted is evaluated.
fn store(
    configuration: &Configuration,
    local: &LocalStore,
    terminal: &Terminal,
) -> anyhow::Result<Arc<dyn Store>> {
    let connector = Connector::new(configuration)?;
    let fetches = Arc::new(FetchFollower::new(terminal));
    let follower = Arc::clone(&fetches) as Arc<dyn FetchObserver>;
    let sources = substituters::sources(configuration, Some(follower));
    let own = own_store::for_building(configuration, local, sources, terminal)?;
    let keeper: Arc<dyn Keeper> = match own {
        Some(store) => Arc::new(store),
        None => through_daemon(configuration, &connector, local, &fetches)?,
    };
    Ok(keeper)
}

/// Returns what is to be held, with the settings that a client of Nix's would send.
fn order(configuration: &Configuration, store_dir: &StoreDir, targets: &[Target]) -> DetachOrder {
    let settings = RealiseSettings {
        mode: BuildMode::Normal,
        after_failure: match configuration.settings.keep_going {
            true => AfterFailure::KeepGoing,
            false => AfterFailure::Stop,
        },
        substitute: substitute(&configuration.settings),
        build: configuration.client_settings(),
        client: None,
    };
    let options = client_options(&settings);
    let wanted = targets.iter().map(|target| {
        let names: Vec<String> = target.outputs.iter().map(ToString::to_string).collect();
        let names = if names.is_empty() { "*".to_owned() } else { names.join(",") };
        format!("{}^{names}", store_dir.display(&target.derivation))
    });
    DetachOrder {
        wanted: wanted.collect(),
        keep_going: options.keep_going,
        keep_failed: options.keep_failed,
        fallback: options.fallback,
        substitute: settings.substitute == Substitute::Yes,
        max_jobs: options.max_jobs,
        cores: options.cores,
        max_silent_time: options.max_silent_time,
        settings: options.overrides,
    }
}
