//! By which key a bucket is asked: that of the environment, or of a profile.
//!
//! The order is that of Amazon's own tools as far as it goes: a profile that the address names, the
//! variables `AWS_ACCESS_KEY_ID` and its kin, the profile of `AWS_PROFILE`, and `default`. Files are
//! read when they are needed. Keys of instances and of other services aren't asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Bytes that a file of credentials may have.
const MAX_FILE: u64 = 1024 * 1024;

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A key by which a bucket is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsCredentials {
    /// `AWS_ACCESS_KEY_ID`
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`
    pub secret_access_key: Hidden,
    /// `AWS_SESSION_TOKEN`
    pub session_token: Option<Hidden>,
}

/// Where keys are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsFiles {
    /// What the environment says, unless a profile is named in the address.
    pub environment: Option<AwsCredentials>,
    /// `AWS_PROFILE`
    pub profile: Option<String>,
    /// The files in which profiles are, the first counting most: `AWS_SHARED_CREDENTIALS_FILE` and
    /// `AWS_CONFIG_FILE`, or `~/.aws/credentials` and `~/.aws/config`.
    pub files: Vec<PathBuf>,
}

impl AwsFiles {
    /// Reads the environment through `lookup`.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> AwsFiles {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let home = |file: &str| Some(PathBuf::from(set("HOME")?).join(".aws").join(file));
        let named = |name: &str| set(name).map(PathBuf::from);
        let environment = set("AWS_ACCESS_KEY_ID").zip(set("AWS_SECRET_ACCESS_KEY"));
        AwsFiles {
            environment: environment.map(|(access_key_id, secret)| AwsCredentials {
                access_key_id,
                secret_access_key: Hidden(secret),
                session_token: set("AWS_SESSION_TOKEN").map(Hidden),
            }),
            profile: set("AWS_PROFILE"),
            files: [
                named("AWS_SHARED_CREDENTIALS_FILE").or_else(|| home("credentials")),
                named("AWS_CONFIG_FILE").or_else(|| home("config")),
            ]
            .into_iter()
            .flatten()
            .collect(),
        }
    }

    /// Returns the key for a profile, or the usual one; nothing where there is none.
    ///
    /// # Errors
    ///
    /// A profile that was named and isn't there, and files that can't be read.
    pub(crate) fn find(&self, profile: Option<&str>) -> Result<Option<AwsCredentials>, String> {
        if profile.is_none() && self.environment.is_some() {
            return Ok(self.environment.clone());
        }
        let named = profile.or(self.profile.as_deref());
        let name = named.unwrap_or("default");
        for file in &self.files {
            let Some(text) = read(file)? else { continue };
            let found = section(&text, name);
            if let Some((access_key_id, secret)) =
                found.get("aws_access_key_id").zip(found.get("aws_secret_access_key"))
            {
                return Ok(Some(AwsCredentials {
                    access_key_id: access_key_id.clone(),
                    secret_access_key: Hidden(secret.clone()),
                    session_token: found.get("aws_session_token").cloned().map(Hidden),
                }));
            }
        }
        match named {
            None => Ok(None),
            Some(name) => {
                let files: Vec<String> =
                    self.files.iter().map(|file| file.display().to_string()).collect();
                let name = name.escape_debug();
                Err(format!("there is no key for the profile '{name}' in {}", files.join(" and ")))
            }
        }
    }
}

fn read(file: &Path) -> Result<Option<String>, String> {
    let opened = match fs_err::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("credentials can't be read: {error}")),
    };
    let mut text = String::new();
    let read = opened.take(MAX_FILE).read_to_string(&mut text);
    read.map_err(|error| format!("credentials can't be read: {error}"))?;
    Ok(Some(text))
}

/// Returns what is said under a profile's name: `[name]`, or `[profile name]`.
fn section(text: &str, profile: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut is_meant = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let name = name.trim();
            is_meant = name == profile
                || name.strip_prefix("profile").is_some_and(|name| name.trim() == profile);
        } else if is_meant
            && !line.starts_with(['#', ';'])
            && let Some((name, value)) = line.split_once('=')
        {
            found.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=a=b\n\n\
                        [profile other]\nregion = x\naws_access_key_id=B\naws_secret_access_key = b\n\
                        aws_session_token = t\n[half]\naws_access_key_id = C\n";

    fn files(variables: &[(&str, &str)]) -> (tempfile::TempDir, AwsFiles) {
        let folder = tempfile::tempdir().expect("a folder");
        fs_err::create_dir(folder.path().join(".aws")).expect("a folder");
        fs_err::write(folder.path().join(".aws/credentials"), FILE).expect("a file");
        let home = folder.path().to_str().expect("text").to_owned();
        let found = AwsFiles::from_lookup(|name| {
            let given = variables.iter().find(|(given, _)| *given == name);
            given.map(|(_, value)| (*value).to_owned()).or((name == "HOME").then(|| home.clone()))
        });
        (folder, found)
    }

    #[test]
    fn the_order_is_that_of_amazons_tools() {
        let id = |found: &AwsFiles, profile| {
            found.find(profile).map(|found| found.map(|found| found.access_key_id))
        };
        let (_folder, found) = files(&[]);
        assert_eq!(id(&found, None), Ok(Some("A".to_owned())));
        assert_eq!(id(&found, Some("other")), Ok(Some("B".to_owned())));
        let wrong = id(&found, Some("half")).expect_err("half a key is none");
        assert!(wrong.contains("no key for the profile 'half' in "), "{wrong}");
        let (_folder, found) = files(&[("AWS_PROFILE", "other")]);
        assert_eq!(id(&found, None), Ok(Some("B".to_owned())));
        let variables = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "e")];
        let (_folder, found) = files(&variables);
        assert_eq!(id(&found, None), Ok(Some("E".to_owned())));
        assert_eq!(id(&found, Some("other")), Ok(Some("B".to_owned())));
        assert!(!format!("{found:?}").contains("\"e\""), "{found:?}");
    }

    #[test]
    fn without_a_key_nothing_is_signed() {
        assert_eq!(AwsFiles::default().find(None), Ok(None));
        assert!(AwsFiles::default().find(Some("x")).is_err());
    }
}
