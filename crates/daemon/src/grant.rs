//! What a client may have done for it that holds no connection meanwhile: the same as if it held one.

use std::cell::RefCell;

use drover_store::{BuildMode, OwnSetting, RealiseSettings};
use drover_wire::ClientOptions;

use crate::policy::Policy;
use crate::server::Client;
use crate::settings::Settings;

/// What a client gets of what it has asked for.
#[derive(Clone, Debug)]
pub struct Granted {
    /// How its builds are done.
    pub settings: RealiseSettings,
    /// What the store does otherwise for it.
    pub store: Vec<OwnSetting>,
    /// What it has asked for and doesn't get, or what can't be understood; one sentence each.
    pub warnings: Vec<String>,
}

/// Returns what a client gets of what it asks for, by the rules that hold for its connections.
pub fn grant(policy: &Policy, client: &Client, options: &ClientOptions) -> Granted {
    let warnings = RefCell::new(Vec::new());
    let warn = |text: &str| warnings.borrow_mut().push(text.to_owned());
    let mut settings = Settings::of(policy);
    settings.apply(options, client.trust, policy, &warn);
    let plain = settings.realise(BuildMode::Normal);
    Granted {
        settings: RealiseSettings { client: client.user.clone(), ..plain },
        store: settings.store,
        warnings: warnings.into_inner(),
    }
}
