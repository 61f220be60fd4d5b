//! Caches in buckets, from one store to another by way of an S3 server.

use crate::bucket::{KEY, S3Server, SECRET};
use crate::liars::{cached, nix_store};
use crate::world::World;

#[test]
fn what_is_copied_to_a_bucket_is_fetched_from_it() {
    let root = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let server = runtime.block_on(S3Server::start(root.path()));
    server.bucket("binaries");
    let (url, world) = (server.url("binaries"), World::new());
    let (path, _) = cached(&world);
    // without a key nothing is written
    world.run(&["copy", "--to", &url, &path]).fails(1, &["s3://binaries/nix-cache-info"]);
    let profile = |world: &World| {
        let text = format!("[ci]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n");
        fs_err::create_dir(world.path(".aws")).unwrap();
        fs_err::write(world.path(".aws/credentials"), text).unwrap();
    };
    profile(&world);
    let url = format!("{url}&profile=ci");
    world.run(&["copy", "--to", &url, &path]).succeeds();
    let other = World::new();
    let options = ["--option", "substituters", &url, "--option", "require-sigs", "false"];
    let fetch = [&["-r", &path][..], &options].concat();
    nix_store(&other, &fetch).fails(1, &["no key for the profile 'ci'"]);
    profile(&other);
    assert_eq!(nix_store(&other, &fetch).succeeds().trim(), path);
    nix_store(&other, &["--verify-path", &path]).succeeds();
    // what is there is not sent again
    let written = || -> Vec<_> {
        let nars = std::fs::read_dir(root.path().join("binaries/nar")).unwrap();
        nars.map(|nar| nar.unwrap().metadata().unwrap().modified().unwrap()).collect()
    };
    let before = written();
    world.run(&["copy", "--to", &url, &path]).succeeds();
    assert_eq!((before.len(), written()), (1, before));
}
