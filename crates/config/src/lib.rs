//! The configuration of Nix, read exactly as Nix reads it: `nix.conf` with all
//! of its places, the machines file with all of its traps, and store URLs.
//!
//! Nothing here opens a file or looks at the environment: files come through
//! [`Files`], variables through [`Environment`]. Every value knows where it was
//! written ([`Origin`]), every error says it first.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::path::PathBuf;
//!
//! use drover_config::{
//!     Builders, Environment, LocalSystem, NixConf, Settings, User, parse_machines,
//! };
//!
//! let files = BTreeMap::from([
//!     (PathBuf::from("/etc/nix/nix.conf"), "build-cores = 4\n".to_owned()),
//!     (PathBuf::from("/etc/nix/machines"), "nix@builder x86_64-linux - 8\n".to_owned()),
//! ]);
//! let environment = Environment::default();
//! let conf = NixConf::load(&environment, &files, &[])?;
//! let settings = Settings::new(&conf, &environment, &LocalSystem::new("x86_64-linux", User::Other))?;
//! assert_eq!(settings.cores, 4);
//! assert_eq!(conf.origin("cores").to_string(), "/etc/nix/nix.conf:1");
//!
//! let builders = Builders {
//!     text: &settings.builders,
//!     origin: conf.origin("builders"),
//!     default_system: &settings.system,
//!     dir: "/".as_ref(),
//! };
//! let machines = parse_machines(&builders, &files)?;
//! assert_eq!(machines.machines[0].store_uri.to_string(), "ssh://nix@builder");
//! assert_eq!(machines.machines[0].max_jobs, 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod authority;
mod caches;
mod environment;
mod error;
mod files;
mod host_key;
mod include;
mod keys;
mod lint;
mod machine;
mod machines;
mod nix_conf;
mod origin;
mod paths;
mod percent;
mod settings;
mod store_reference;
mod typed_store;
mod unknown;
mod value;
mod words;

pub use authority::{Authority, Host, Password};
pub use caches::CacheOptions;
pub use environment::Environment;
pub use error::ConfigError;
pub use files::Files;
pub use host_key::HostKey;
pub use keys::is_own_setting;
pub use lint::lint;
pub use machine::{Column, Machine, SpeedFactor};
pub use machines::{Builders, Machines, MachinesError, parse_machines};
pub use nix_conf::{Base, NixConf, Override, RawSetting};
pub use origin::{Note, Origin, Severity};
pub use settings::{LocalSystem, Settings, User};
pub use store_reference::{
    Scheme, StoreReference, StoreReferenceError, StoreRule, without_password,
};
pub use typed_store::whole_store_name;
pub use unknown::UnknownSetting;
pub use value::{MaxJobs, Sandbox, parse_switch};
