//! Something in the configuration that its writer may want to know.

use drover_config::{Note, Severity};

/// Something in the configuration that its writer may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it is: a file with a line, a variable, a flag.
    pub origin: String,
    /// How much it matters.
    pub severity: Severity,
    /// One line: lower case, no full stop.
    pub text: String,
    /// What mends it; only a hint may have nothing to be mended.
    pub remedy: Option<String>,
}

impl Finding {
    /// Returns a likely mistake, and what mends it.
    pub fn warning(
        origin: impl ToString,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        let remedy = Some(remedy.into());
        Finding { severity: Severity::Warning, remedy, ..Finding::hint(origin, text) }
    }

    /// Returns what is worth knowing when something doesn't work as expected.
    pub fn hint(origin: impl ToString, text: impl Into<String>) -> Finding {
        let (severity, remedy) = (Severity::Hint, None);
        Finding { origin: origin.to_string(), severity, text: text.into(), remedy }
    }

    /// Returns the same with what mends it.
    #[must_use]
    pub fn mended_by(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = Some(remedy.into());
        self
    }
}

impl From<&Note> for Finding {
    fn from(note: &Note) -> Finding {
        Finding {
            origin: note.origin.to_string(),
            severity: note.severity,
            text: note.text.clone(),
            remedy: Some(note.remedy.clone()),
        }
    }
}
