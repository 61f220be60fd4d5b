//! nginx over a folder, as it is when somebody wants it fast: two workers, `sendfile`, files kept open.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// nginx that serves a folder, for as long as this lives.
pub(super) struct Nginx {
    child: Child,
    /// Where it serves, without a slash at the end.
    pub(super) url: String,
}

impl Nginx {
    /// Starts it on a socket that listens; its own files are in `own`.
    pub(super) fn start(listener: TcpListener, own: &Path, served: &Path) -> Result<Nginx> {
        let address = listener.local_addr()?;
        // it takes the socket as it would from another nginx that it replaces
        listener.set_nonblocking(true)?;
        let (folder, served) = (own.display(), served.display());
        let configuration = format!(
            "daemon off; user root; pid {folder}/pid; error_log {folder}/log; worker_processes 2;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;\n\
             open_file_cache max=4096; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n\
             fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
             server {{ listen {address} backlog=256; root {served}; }} }}\n"
        );
        fs::write(own.join("nginx.conf"), configuration)?;
        let child = Command::new("/usr/sbin/nginx")
            .env("NGINX", "0;")
            .arg("-c")
            .arg(own.join("nginx.conf"))
            .arg("-p")
            .arg(own)
            .stdin(OwnedFd::from(listener))
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start nginx")?;
        Ok(Nginx { child, url: format!("http://{address}") })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // its workers end with their master only where that can tell them
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().ok();
        self.child.wait().ok();
    }
}
