//! nginx, as most have it: before `drover cache serve`, and with a cache that stock Nix has written.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use drover_testkit::Certificates;
use rstest::rstest;

use crate::{Store, TOKEN, exchange, field, hash_part, succeeded, words};

/// nginx on a port of its own; it ends with the test.
struct Nginx {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Nginx {
    /// Starts it with these lines in its server, and what stands behind the address that it listens at.
    fn start(folder: &Path, listen: &str, server: &str) -> Nginx {
        // it gets the socket that listens already, as it would from another nginx that it replaces
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = format!(
            "user root; daemon off; worker_processes 1; pid {0}/nginx.pid; error_log {0}/nginx.log;
             events {{ worker_connections 64; }}
             http {{ access_log off; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;
               fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
               server {{ listen 127.0.0.1:{port} {listen}; {server} }} }}",
            folder.display(),
        );
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, text).unwrap();
        let child = Command::new("nginx")
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            .env("NGINX", "0;")
            .arg("-c")
            .arg(configuration)
            .arg("-p")
            .arg(folder)
            .stdin(OwnedFd::from(listener))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Nginx { child, port, folder: folder.to_owned() }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("nginx.log")).unwrap_or_default()
    }

    fn ask(&self, url: &str, headers: &str) -> crate::Answer {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(crate::LIMIT)).unwrap();
        exchange(&mut stream, &format!("GET {url} HTTP/1.0\r\nhost: x\r\n{headers}\r\n"), b"")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // it ends its worker itself
        Command::new("kill").arg(self.child.id().to_string()).status().ok();
        self.child.wait().ok();
    }
}

/// Runs drover with another store of its own, under `root`.
fn drover(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drover"));
    command.args(arguments).env("HOME", root).env("NIX_REMOTE", "").output().unwrap()
}

/// Through a unix socket, with its own buffering.
#[test]
fn stands_in_front() {
    let store = Store::new();
    store.write("large", vec![9; 5_000_000]);
    let path = store.add("large");
    let socket = store.root().join("socket");
    let server = store.serve(&format!("unix:{}", socket.display()), &[]);
    let mut direct = UnixStream::connect(&socket).unwrap();
    let info = exchange(&mut direct, "GET /nix-cache-info HTTP/1.0\r\n\r\n", b"");
    assert_eq!(info.text(), "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n");
    let proxy = format!("location / {{ proxy_pass http://unix:{}:; }}", socket.display());
    let nginx = Nginx::start(store.root(), "", &proxy);
    let narinfo = nginx.ask(&format!("/{}.narinfo", hash_part(&path)), "");
    let url = format!("/{}", field(&narinfo.text(), "URL").replace(".zst", ""));
    let nar = nginx.ask(&url, "");
    assert_eq!((nar.status, nar.body.len()), (200, 5_000_112), "{}", nar.head);
    let part = nginx.ask(&url, "range: bytes=-112\r\n");
    assert_eq!((part.status, part.body.len()), (206, 112), "{}", part.head);
    assert_eq!(part.body, nar.body[5_000_000..]);
    let climbing = nginx.ask("/nar/%2e%2e/%2e%2e/etc/shadow", "");
    assert!([400, 404].contains(&climbing.status), "{}", climbing.head);
    drop(server);
}

/// With HTTPS there, for stock Nix and for drover, both ways.
#[rstest]
#[case::none("none")]
#[case::zstd("zstd")]
fn speaks_tls_in_front(#[case] compression: &str) {
    let (store, source) = (Store::new(), Store::new());
    let [dependency, refers] = source.add_pair();
    source.write("single", "single");
    let single = source.add("single");
    let socket = store.root().join("socket");
    let token = store.root().join("token");
    let writes = ["--write-token-file", token.to_str().unwrap(), "--accept-unsigned"];
    let arguments = [&["--compression", compression][..], &writes].concat();
    let _server = store.serve(&format!("unix:{}", socket.display()), &arguments);
    let certificates = Certificates::for_localhost().unwrap();
    let cert = store.write("cert.pem", &certificates.certificate);
    let key = store.write("key.pem", &certificates.key);
    let authority = store.write("authority.pem", &certificates.authority);
    let authority = authority.to_str().unwrap();
    let lines = format!(
        "ssl_certificate {}; ssl_certificate_key {}; client_max_body_size 0;
         location / {{ proxy_pass http://unix:{}:; proxy_set_header Host $host; }}",
        cert.display(),
        key.display(),
        socket.display()
    );
    let nginx = Nginx::start(store.root(), "ssl", &lines);
    let url = format!("https://localhost:{}", nginx.port);
    let netrc = store.write("netrc", format!("machine localhost login x password {TOKEN}\n"));
    let netrc = ["--option", "netrc-file", netrc.to_str().unwrap()];

    // stock Nix writes two, and drover the third
    let to = format!("{url}?compression={compression}");
    let path = |name: &str| format!("/nix/store/{name}");
    let mut stock = source.nix("nix");
    stock.env("NIX_SSL_CERT_FILE", authority);
    succeeded(stock.args(["copy", "--to", &to, &path(&refers)]).args(netrc));
    let ours = ["copy", "--no-check-sigs", "--from", &source.uri(), "--to", &to, &path(&single)];
    let ours = [&ours[..], &["--option", "ssl-cert-file", authority], &netrc].concat();
    let copied = drover(source.root(), &ours);
    assert!(copied.status.success(), "{}{}{}", words(&copied), store.log(), nginx.log());
    for name in [&dependency, &refers, &single] {
        assert!(store.real(name).exists(), "{name}");
    }

    // and both read all three
    let back = Store::new();
    let mut stock = back.nix("nix");
    stock.env("NIX_SSL_CERT_FILE", authority).args(["copy", "--no-check-sigs", "--from", &url]);
    succeeded(stock.args([path(&refers), path(&single)]));
    succeeded(back.nix("nix-store").args(["--verify", "--check-contents"]));
    assert_eq!(fs::read(back.real(&dependency).join("large")).unwrap(), vec![3; 3_000_000]);
    let back = Store::new();
    let (to, all) = (back.uri(), [path(&refers), path(&single)]);
    let ours = ["copy", "--no-check-sigs", "--from", &url, "--to", &to, &all[0], &all[1]];
    let ours = [&ours[..], &["--option", "ssl-cert-file", authority]].concat();
    let copied = drover(back.root(), &ours);
    assert!(copied.status.success(), "{}{}{}", words(&copied), store.log(), nginx.log());
    succeeded(back.nix("nix-store").args(["--verify", "--check-contents"]));
    assert_eq!(fs::read(back.real(&dependency).join("large")).unwrap(), vec![3; 3_000_000]);
}

/// A folder that stock Nix has written, and what becomes of a narinfo whose NAR is gone.
#[rstest]
#[case::none("none", ".nar")]
#[case::xz("xz", ".nar.xz")]
#[case::zstd("zstd", ".nar.zst")]
fn serves_what_stock_nix_wrote(#[case] compression: &str, #[case] ending: &str) {
    let source = Store::new();
    let [dependency, refers] = source.add_pair();
    let folder = source.root().join("cache");
    let to = format!("file://{}?compression={compression}", folder.display());
    let refers_path = format!("/nix/store/{refers}");
    succeeded(source.nix("nix").args(["copy", "--to", &to, &refers_path]));
    let narinfo = |name: &str| {
        let file = folder.join(format!("{}.narinfo", hash_part(name)));
        fs::read_to_string(file).unwrap()
    };
    let nar = folder.join(field(&narinfo(&dependency), "URL"));
    assert!(nar.to_str().unwrap().ends_with(ending), "{}", nar.display());
    let nginx = Nginx::start(source.root(), "", &format!("root {};", folder.display()));
    let url = format!("http://localhost:{}", nginx.port);
    let copy = |to: &Store| {
        let uri = to.uri();
        let line = ["copy", "--no-check-sigs", "--from", &url, "--to", &uri, &refers_path];
        drover(to.root(), &line)
    };
    let back = Store::new();
    let copied = copy(&back);
    assert!(copied.status.success(), "{}{}", words(&copied), nginx.log());
    succeeded(back.nix("nix-store").args(["--verify", "--check-contents"]));
    let there = succeeded(back.nix("nix-store").args(["--query", "--requisites", &refers_path]));
    assert_eq!(there.lines().count(), 2, "{there}");
    assert_eq!(fs::read(back.real(&dependency).join("large")).unwrap(), vec![3; 3_000_000]);

    fs::remove_file(&nar).unwrap();
    let back = Store::new();
    let failed = copy(&back);
    let said = words(&failed);
    assert!(!failed.status.success() && said.contains(&dependency), "{said}");
    assert!(!back.real(&refers).exists(), "it refers to what is not there");
}
