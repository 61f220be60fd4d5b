//! Variables that builds with access to the network may get from outside (`impureEnvVars`).

use drover_store::LogEvent;

use crate::job::Job;
use crate::settings::OwnVariables;

impl Job<'_> {
    /// Returns the value of a variable outside of all builds.
    pub(crate) fn variable(&self, name: &str) -> Option<Vec<u8>> {
        match (self.request.wishes.variables.get(name), self.settings.own_variables) {
            (Some(value), OwnVariables::Taken) => return Some(value.clone().into_bytes()),
            (Some(_), OwnVariables::Ignored) => {
                let text = format!(
                    "warning: '{name}' of setting 'impure-env' is ignored, as the experimental feature \
                     'configurable-impure-env' is not enabled"
                );
                self.log.event(LogEvent::Message(text));
            }
            (None, _) => {}
        }
        (self.settings.outside.0)(name)
    }
}
