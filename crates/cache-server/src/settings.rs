//! How a cache is served.

use std::path::PathBuf;
use std::time::Duration;

use drover_core::{
    Hash, HashAlgorithm, PathInfo, Realisation, SecretKey, StoreDir, realisation_fingerprint,
};

/// How NARs are given out, as narinfos say. Each can be asked for in either form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NarForm {
    /// As they are: `.nar`.
    Plain,
    /// Compressed with Zstandard on their way: `.nar.zst`.
    Zstd,
}

impl NarForm {
    /// Returns what stands behind `.nar`.
    pub(crate) const fn ending(self) -> &'static str {
        match self {
            NarForm::Plain => "",
            NarForm::Zstd => ".zst",
        }
    }

    pub(crate) fn of_ending(ending: &str) -> Option<NarForm> {
        [NarForm::Plain, NarForm::Zstd].into_iter().find(|form| form.ending() == ending)
    }
}

/// The keys that all that is served is signed with, beside the signatures that the store has.
#[derive(Default)]
pub struct Signers(Vec<SecretKey>);

impl Signers {
    /// Takes the keys.
    pub fn new(keys: Vec<SecretKey>) -> Signers {
        Signers(keys)
    }

    /// Returns the keys that check the signatures, as text.
    pub fn public_keys(&self) -> Vec<String> {
        self.0.iter().map(|key| key.public_key().to_string()).collect()
    }

    /// Signs a path's info.
    pub(crate) fn sign(&self, info: &mut PathInfo, store_dir: &StoreDir) {
        if self.0.is_empty() {
            return;
        }
        let fingerprint = info.fingerprint(store_dir);
        for key in &self.0 {
            info.signatures.insert(key.sign(&fingerprint));
        }
    }

    /// Signs a realisation.
    pub(crate) fn sign_realisation(&self, realisation: &mut Realisation) {
        for key in &self.0 {
            let signature = key.sign(&realisation_fingerprint(realisation));
            realisation.signatures.insert(signature);
        }
    }
}

/// What whoever may write says to show it. Only its hash is kept.
pub struct WriteToken(Hash);

impl WriteToken {
    /// Characters that a token must have at least.
    pub const SHORTEST: usize = 16;

    /// Takes a token; nothing where it is shorter than [`WriteToken::SHORTEST`].
    pub fn new(token: &str) -> Option<WriteToken> {
        let long = token.len() >= WriteToken::SHORTEST;
        long.then(|| WriteToken(digest(token)))
    }

    /// Whether somebody has said it. How long that takes tells nothing, as hashes are compared.
    pub(crate) fn is(&self, said: &str) -> bool {
        digest(said) == self.0
    }
}

fn digest(token: &str) -> Hash {
    Hash::of(HashAlgorithm::Sha256, token.as_bytes())
}

/// Whether what is uploaded must be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadTrust {
    /// As the store has it: by a key that it trusts, unless the path follows from its contents.
    BySignature,
    /// The token is enough.
    ByToken,
}

/// How uploads are taken.
pub struct Uploads {
    /// What shows that somebody may write.
    pub token: WriteToken,
    /// What is believed of what they send.
    pub trust: UploadTrust,
    /// Where files wait for their narinfos; they have no names there.
    pub folder: PathBuf,
    /// Bytes that one file may have.
    pub largest_file: u64,
    /// Bytes that all files which wait may have.
    pub most_waiting: u64,
    /// How long a file waits for its narinfo.
    pub patience: Duration,
}

/// How a cache is served.
pub struct Settings {
    /// Who signs what is served.
    pub signers: Signers,
    /// `Priority` in `nix-cache-info`: lower is asked first.
    pub priority: i64,
    /// `WantMassQuery`.
    pub mass_query: bool,
    /// How narinfos say that NARs come.
    pub form: NarForm,
    /// Zstandard's level, 1 to 19.
    pub level: i32,
    /// How uploads are taken; nothing where none are.
    pub uploads: Option<Uploads>,
    /// Bytes of memory for NARs that are asked for again and again; each may have a quarter of it.
    pub memory: u64,
    /// Connections at once; others wait until one ends.
    pub connections: usize,
    /// How long a request may take to come, or the next one, and how long a reader may take nothing.
    pub idle: Duration,
    /// How long what is being sent may take to end when the server stops.
    pub drain: Duration,
}

impl Settings {
    /// Returns what is usual: read-only and unsigned.
    pub fn usual() -> Settings {
        Settings {
            signers: Signers::default(),
            priority: 40,
            mass_query: true,
            form: NarForm::Zstd,
            level: 1,
            uploads: None,
            memory: 128 * 1024 * 1024,
            connections: 8192,
            idle: Duration::from_secs(60),
            drain: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_compared_whole() {
        assert!(WriteToken::new("short").is_none());
        let token = WriteToken::new("0123456789abcdef").unwrap();
        assert!(token.is("0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdefg"] {
            assert!(!token.is(other), "{other}");
        }
    }
}
