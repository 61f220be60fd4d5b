//! Whose turn it is.

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Stock,
    Drover,
}

impl Side {
    pub(super) const BOTH: [Side; 2] = [Side::Stock, Side::Drover];

    pub(super) fn name(self) -> &'static str {
        match self {
            Side::Stock => "stock",
            Side::Drover => "drover",
        }
    }
}
