//! Who wants something of a detached build.

/// Whose builds somebody may follow and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of one's own.
    Own,
    /// Everybody's.
    All,
}

/// Who wants something of a detached build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The name by which builds are owned.
    pub user: String,
    /// Whose builds are within reach.
    pub reach: Reach,
}

impl Asker {
    pub(crate) fn may_touch(&self, owner: &str) -> bool {
        self.reach == Reach::All || self.user == owner
    }
}
