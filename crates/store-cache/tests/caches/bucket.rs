//! An S3 server on loopback, over a folder: its signatures are checked as Amazon checks them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub const KEY: &str = "AKIDEXAMPLE";
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// The server. It ends when it is dropped.
pub struct S3Server {
    address: SocketAddr,
    root: PathBuf,
    _tasks: JoinSet<()>,
}

impl S3Server {
    pub async fn start(root: &Path) -> S3Server {
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build().into_shared();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    let server = Builder::new(TokioExecutor::new());
                    // a client that goes is none of the server's business
                    server.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        S3Server { address, root: root.to_owned(), _tasks: tasks }
    }

    /// Makes a bucket; returns the folder that it is.
    pub fn bucket(&self, name: &str) -> PathBuf {
        let folder = self.root.join(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    /// Returns the address of a bucket as Nix has it.
    pub fn url(&self, bucket: &str) -> String {
        format!("s3://{bucket}?endpoint={}&scheme=http&region=eu-west-9", self.address)
    }

    /// Returns the same with the endpoint as a URL.
    pub fn url_of_url(&self, bucket: &str) -> String {
        format!("s3://{bucket}?endpoint=http://{}&region=eu-west-9", self.address)
    }
}
