//! What stores are asked beside the question, and what they tell of themselves: the same in every protocol, and
//! behind none.

/// Whether a store may fetch what it lacks from its substituters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Substitute {
    /// It may.
    Yes,
    /// It may not.
    No,
}

/// Whether paths that are added must be signed by a trusted key, or be content-addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureCheck {
    /// As the store is configured (`require-sigs`).
    AsConfigured,
    /// They needn't. Stores take that only from those whom they trust.
    Skip,
}

/// What is done with what is found broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It is reported.
    No,
    /// It is fetched or built again.
    Yes,
}

/// How far a store is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyDepth {
    /// That what is registered is there.
    Existence,
    /// That it has the contents that are registered.
    Contents,
}

/// What a garbage collection is to do; the numbers are Nix's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectAction {
    /// List what is reachable from the roots.
    ListLive = 0,
    /// List what isn't.
    ListDead = 1,
    /// Delete what isn't.
    DeleteDead = 2,
    /// Delete the paths given, if nothing needs them.
    DeleteGiven = 3,
}

/// Whether paths that something needs are deleted all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// They stay.
    Respect,
    /// They go.
    Ignore,
}

/// Whether the other side takes unsigned paths and derivations at our word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It doesn't say.
    Unknown,
    /// It does.
    Trusted,
    /// It doesn't: it takes only what is signed or content-addressed.
    NotTrusted,
}

/// Whether a build is plain, a repair, or a check of what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildMode {
    /// Build what isn't valid.
    Normal,
    /// Replace what is corrupt.
    Repair,
    /// Build again and compare.
    Check,
}
