//! What is wrong with machines that build, and what mends it.
//!
//! Judgement only: nothing here looks at anything. Whoever has looked says what was seen, each step
//! of [`checks`] makes a [`Verdict`] of it, and a [`Report`] is what people and programs read. So
//! every text can be tested without a machine.
//!
//! The steps are those that the guides to Nix's distributed builds tell people to go through by
//! hand, in the order in which each needs the one before.

pub mod checks;
mod finding;
mod given_away;
mod hook;
mod in_force;
mod json;
mod keys;
mod line;
mod lines;
mod report;
mod route;
mod settings;
mod step;
mod text;
mod whose;

pub use finding::Finding;
pub use given_away::{FilePurpose, GuardedFile, judge_guarded, judge_rights};
pub use hook::{HookLines, judge_hook};
pub use in_force::{SettingRead, changed_settings, settings_in_force};
pub use json::report_as_json;
pub use keys::{KeyFile, KeyState, Reader, judge_key};
pub use line::{LineError, MachineLine, appended};
pub use lines::{Requirement, judge_lines};
pub use report::{FileRead, LineRead, MachineReport, Presence, Report, Standing, VariableRead};
pub use route::{KeyChecking, Route, Target};
pub use settings::MachineSettings;
pub use step::{Grade, Step, StepName, Verdict};
pub use text::report_as_text;
pub use whose::{BuildersSetting, LocalTrust, judge_builders};
