//! Where a cache is, by its address.

use std::path::Path;
use std::sync::Arc;

use drover_config::{Host, Scheme, StoreReference};
use reqwest::Url;

use crate::destination::{Destination, Writing};
use crate::error::CacheError;
use crate::file::FileTransport;
use crate::http::HttpTransport;
use crate::netrc::Credentials;
use crate::s3::{Bucket, S3Transport};
use crate::settings::{CacheSettings, Parameters};
use crate::transport::Transport;

/// Where a cache is.
pub(crate) struct Place {
    /// How the cache is called.
    pub(crate) name: String,
    pub(crate) transport: Arc<dyn Transport>,
    /// Where it is written, and in which way.
    pub(crate) writing: Writing,
}

impl Place {
    /// Reads an address; nothing is connected.
    pub(crate) fn of(
        reference: &StoreReference,
        parameters: &Parameters,
        settings: &CacheSettings,
    ) -> Result<Place, CacheError> {
        let identity = parameters.identity().or_else(|| settings.identity.clone());
        let settings = CacheSettings { identity, ..settings.clone() };
        match reference.scheme() {
            Scheme::File => {
                let folder = Path::new(reference.path()).to_owned();
                let name = format!("file://{}", folder.display());
                let transport = Arc::new(FileTransport::new(folder.clone()));
                let writing = Writing::Files(Destination::Folder(folder));
                Ok(Place { name, transport, writing })
            }
            Scheme::S3 => {
                let of = Bucket::new(reference, parameters.s3.clone(), settings)?;
                let (name, bucket) = (of.url(), Arc::new(of));
                let transport = Arc::new(S3Transport(Arc::clone(&bucket)));
                Ok(Place { name, transport, writing: Writing::Bucket(bucket) })
            }
            _ => {
                let (base, credentials) = base_url(reference)?;
                let name = base.as_str().trim_end_matches('/').to_owned();
                let server = Arc::new(HttpTransport::new(base, credentials, settings));
                let transport = Arc::clone(&server) as Arc<dyn Transport>;
                let writing = Writing::Files(Destination::Server(server));
                Ok(Place { name, transport, writing })
            }
        }
    }
}

/// Returns a cache's URL, which ends with a slash, and what the address says of who asks.
fn base_url(reference: &StoreReference) -> Result<(Url, Option<Credentials>), CacheError> {
    let refuse = |reason: &str| CacheError::Address {
        address: format!("{}://…{}", reference.scheme().as_str(), reference.path()),
        reason: reason.to_owned(),
    };
    let authority = reference.authority().ok_or_else(|| refuse("it has no host"))?;
    let host = match &authority.host {
        Host::Name(name) => name.clone(),
        Host::Ipv6 { zone: Some(_), .. } => return Err(refuse("a zone can't be in a URL")),
        Host::Ipv6 { address, zone: None } => format!("[{address}]"),
    };
    let mut url = Url::parse(&format!("{}://{host}/", reference.scheme().as_str()))
        .map_err(|error| refuse(&error.to_string()))?;
    url.set_port(authority.port).map_err(|()| refuse("it can't have a port"))?;
    // Setting the path encodes what must be, but for the percent sign itself.
    let path = reference.path().trim_end_matches('/').replace('%', "%25");
    url.set_path(&format!("{path}/"));
    let credentials = authority.user.as_ref().map(|user| Credentials {
        user: user.clone(),
        password: authority.password.as_ref().map_or_else(String::new, |word| word.0.clone()),
    });
    Ok((url, credentials))
}
