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
    /// What mends it, where that isn't plain from the text.
    pub remedy: Option<String>,
}

impl Finding {
    /// Returns a likely mistake.
    pub fn warning(origin: impl ToString, text: impl Into<String>) -> Finding {
        let (severity, remedy) = (Severity::Warning, None);
        Finding { origin: origin.to_string(), severity, text: text.into(), remedy }
    }

    /// Returns what is worth knowing when something doesn't work as expected.
    pub fn hint(origin: impl ToString, text: impl Into<String>) -> Finding {
        Finding { severity: Severity::Hint, ..Finding::warning(origin, text) }
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
            remedy: None,
        }
    }
}
