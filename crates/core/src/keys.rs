//! Ed25519 keys that sign path infos and realisations, in Nix's text form `NAME:BASE64`.
//!
//! A secret key is never shown: it has neither `Debug` nor `Display`, and its bytes are wiped when
//! it is dropped. Follows `src/libutil/signature/local-keys.cc` of Nix; checking is stricter than
//! there, as keys and signatures of small order are refused.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::{PathInfo, Realisation, Signature, StoreDir, ToldRealisation};

/// Why a text is not a key, or a key can't be made. The text itself is not repeated, as it may be
/// a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No `NAME:` in front, or an empty name.
    #[error("key must be NAME:BASE64, with a name before the colon")]
    Name,
    /// Not base 64, or not of the length that keys have.
    #[error("{kind} '{name}' must be base64 of {expected} bytes")]
    Bytes {
        /// The name of the key.
        name: String,
        /// What it should be.
        kind: &'static str,
        /// Bytes that such a key has.
        expected: usize,
    },
    /// Bytes that are no key: no point of the curve, or a public half that isn't the secret's.
    #[error("{kind} '{name}' is not a valid Ed25519 key")]
    Invalid {
        /// The name of the key.
        name: String,
        /// What it should be.
        kind: &'static str,
    },
    /// The system gave no random bytes.
    #[error("cannot make a key: the system gives no random bytes")]
    Random,
}

/// Signatures in the name of a trusted key that are tried for one path: a check takes time, and who
/// sends many has forged them.
const MAX_TRIED: usize = 16;

const SECRET: &str = "secret key";
const PUBLIC: &str = "public key";

/// A key that signs. 64 bytes in its text form: the seed and the public key.
pub struct SecretKey {
    name: String,
    key: SigningKey,
}

impl SecretKey {
    /// Makes a new key.
    ///
    /// # Errors
    ///
    /// An empty name or one with a colon, and a system without random bytes.
    pub fn generate(name: &str) -> Result<SecretKey, KeyError> {
        if name.is_empty() || name.contains(':') {
            return Err(KeyError::Name);
        }
        let mut seed = Zeroizing::new([0u8; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|_| KeyError::Random)?;
        Ok(SecretKey { name: name.to_owned(), key: SigningKey::from_bytes(&seed) })
    }

    /// Returns the key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the text form, for the key's file and nothing else; it is wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new(self.key.to_keypair_bytes());
        Zeroizing::new(format!("{}:{}", self.name, BASE64.encode(bytes.as_slice())))
    }

    /// Returns the key that checks this one's signatures.
    pub fn public_key(&self) -> PublicKey {
        PublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Signs a fingerprint.
    pub fn sign(&self, fingerprint: &str) -> Signature {
        Signature::new(&self.name, self.key.sign(fingerprint.as_bytes()).to_bytes())
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<SecretKey, KeyError> {
        let (name, digits) = split(text)?;
        let bytes = decode::<64>(name, digits, SECRET)?;
        let key = SigningKey::from_keypair_bytes(&bytes)
            .map_err(|_| KeyError::Invalid { name: name.to_owned(), kind: SECRET })?;
        Ok(SecretKey { name: name.to_owned(), key })
    }
}

/// A key that checks signatures. 32 bytes in its text form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

impl PublicKey {
    /// Returns the key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this key made the signature of the fingerprint.
    pub fn verifies(&self, fingerprint: &str, signature: &Signature) -> bool {
        let bytes = ed25519_dalek::Signature::from_bytes(signature.bytes());
        signature.key() == self.name
            && self.key.verify_strict(fingerprint.as_bytes(), &bytes).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicKey, KeyError> {
        let (name, digits) = split(text)?;
        let bytes = decode::<32>(name, digits, PUBLIC)?;
        let key = VerifyingKey::from_bytes(&bytes)
            .map_err(|_| KeyError::Invalid { name: name.to_owned(), kind: PUBLIC })?;
        Ok(PublicKey { name: name.to_owned(), key })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.key.as_bytes()))
    }
}

/// The keys whose signatures are believed (`trusted-public-keys`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedKeys(BTreeMap<String, PublicKey>);

impl TrustedKeys {
    /// Reads keys. Of several with one name, the first counts, as in Nix.
    ///
    /// # Errors
    ///
    /// The first text that is no key.
    pub fn parse<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<TrustedKeys, KeyError> {
        let mut trusted = TrustedKeys::default();
        for key in keys {
            trusted.add(key.parse()?);
        }
        Ok(trusted)
    }

    /// Adds a key, unless one with its name is there.
    pub fn add(&mut self, key: PublicKey) {
        self.0.entry(key.name.clone()).or_insert(key);
    }

    /// Adds the keys of others, unless one of the same name is there.
    pub fn extend(&mut self, others: &TrustedKeys) {
        for key in others.0.values() {
            self.add(key.clone());
        }
    }

    /// Returns the keys' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether one of these keys made the signature of the fingerprint.
    pub fn verifies(&self, fingerprint: &str, signature: &Signature) -> bool {
        self.0.get(signature.key()).is_some_and(|key| key.verifies(fingerprint, signature))
    }

    /// Whether one of these keys signed the path's info. One whose size is not known can't be
    /// signed.
    pub fn vouch_for(&self, info: &PathInfo, store_dir: &StoreDir) -> bool {
        if info.nar_size.0 == 0 || info.signatures.is_empty() || self.0.is_empty() {
            return false;
        }
        let fingerprint = info.fingerprint(store_dir);
        let known = info.signatures.iter().filter(|one| self.0.contains_key(one.key()));
        known.take(MAX_TRIED).any(|signature| self.verifies(&fingerprint, signature))
    }

    /// Whether one of these keys signed the realisation.
    pub fn vouch_for_realisation(&self, realisation: &Realisation) -> bool {
        self.vouch_for_told(&realisation.clone().into())
    }

    /// Whether one of these keys signed what is told of an output.
    pub fn vouch_for_told(&self, told: &ToldRealisation) -> bool {
        let fingerprint = told.fingerprint();
        let signatures = told.realisation.signatures.iter();
        let known = signatures.filter(|one| self.0.contains_key(one.key()));
        known.take(MAX_TRIED).any(|signature| self.verifies(&fingerprint, signature))
    }
}

/// Returns the text that signatures of a realisation sign that depends on no other.
pub fn realisation_fingerprint(realisation: &Realisation) -> String {
    ToldRealisation::from(realisation.clone()).fingerprint()
}

fn split(text: &str) -> Result<(&str, &str), KeyError> {
    text.trim().split_once(':').filter(|(name, _)| !name.is_empty()).ok_or(KeyError::Name)
}

fn decode<const N: usize>(
    name: &str,
    digits: &str,
    kind: &'static str,
) -> Result<Zeroizing<[u8; N]>, KeyError> {
    let bad = || KeyError::Bytes { name: name.to_owned(), kind, expected: N };
    let bytes = Zeroizing::new(BASE64.decode(digits.as_bytes()).map_err(|_| bad())?);
    let bytes: &[u8; N] = bytes.as_slice().try_into().map_err(|_| bad())?;
    Ok(Zeroizing::new(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_verifies() {
        let secret = SecretKey::generate("a-1").expect("random bytes");
        let again: SecretKey = secret.to_text().parse().expect("its own text");
        let public: PublicKey = secret.public_key().to_string().parse().expect("its own text");
        let signature = again.sign("a text");
        assert!(public.verifies("a text", &signature));
        assert!(!public.verifies("another text", &signature));
        let other_name: PublicKey =
            public.to_string().replace("a-1:", "b-1:").parse().expect("a key");
        assert!(!other_name.verifies("a text", &signature));
        let trusted = TrustedKeys::parse([public.to_string().as_str()]).expect("a key");
        assert!(trusted.verifies("a text", &signature));
        assert!(!TrustedKeys::default().verifies("a text", &signature));
    }

    #[test]
    fn refuses_what_is_no_key_without_repeating_it() {
        for text in ["", ":AAAA", "name", "name:", "name:c2VjcmV0", "name:secret!"] {
            let error = text.parse::<SecretKey>().err().expect(text).to_string();
            assert!(!error.contains("secret!") && !error.contains("c2VjcmV0"), "{error}");
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
        // A public half that isn't the secret's would let signatures leak the secret.
        let one = SecretKey::generate("k").expect("random bytes");
        let two = SecretKey::generate("k").expect("random bytes");
        let mixed = [&one.key.to_bytes()[..], two.key.verifying_key().as_bytes()].concat();
        let text = format!("k:{}", BASE64.encode(&mixed));
        assert!(text.parse::<SecretKey>().is_err());
    }

    #[test]
    fn keys_of_small_order_vouch_for_nothing() {
        let zero = format!("k:{}", BASE64.encode(&[0u8; 32]));
        let key: PublicKey = zero.parse().expect("a point of order 4");
        assert!(!key.verifies("a text", &Signature::new("k", [0; 64])));
    }

    #[test]
    fn the_first_key_of_a_name_counts() {
        let keys: Vec<String> = (0..2)
            .map(|_| SecretKey::generate("k").expect("random bytes").public_key().to_string())
            .collect();
        let trusted = TrustedKeys::parse(keys.iter().map(String::as_str)).expect("keys");
        assert_eq!(trusted.0["k"].to_string(), keys[0]);
    }
}
