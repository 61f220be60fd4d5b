//! Keys, made and read.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::world::{Told, World};

/// Returns the public half of a secret key.
fn public_of(world: &World, secret: &str) -> String {
    let mut command = world.command(&["key", "convert-secret-to-public"]);
    command.stdin(fs_err::File::open(world.path(secret)).unwrap().into_parts().0);
    let told = Told::of(command.stderr(Stdio::piped()).output().unwrap());
    told.succeeds().trim().to_owned()
}

#[test]
fn are_made_in_pairs() {
    let world = World::new();
    let told = world.run(&["key", "generate", "a-1", "a.sec", "a.pub"]);
    assert_eq!(told.succeeds(), "");
    let mode = |name: &str| fs_err::metadata(world.path(name)).unwrap().permissions().mode();
    assert_eq!(mode("a.sec") & 0o777, 0o600);
    let public = fs_err::read_to_string(world.path("a.pub")).unwrap();
    assert!(public.starts_with("a-1:"), "{public}");
    assert_eq!(public_of(&world, "a.sec"), public);
    // where nobody wants a file the public one is printed
    let told = world.run(&["key", "generate", "b-1", "b.sec"]);
    assert_eq!(told.succeeds().trim(), public_of(&world, "b.sec"));
    // and with no file at all the secret one is, as by Nix
    let told = world.run(&["key", "generate", "c-1"]);
    fs_err::write(world.path("c.sec"), told.succeeds()).unwrap();
    assert!(public_of(&world, "c.sec").starts_with("c-1:"));
    // no secret takes the place of another
    let before = fs_err::read(world.path("a.sec")).unwrap();
    world.run(&["key", "generate", "a-1", "a.sec", "a.pub"]).fails(1, &["a.sec", "exists"]);
    assert_eq!(fs_err::read(world.path("a.sec")).unwrap(), before);
    // nor does a public one take that of a secret
    world
        .run(&["key", "generate", "d-1", "d.sec", "a.sec"])
        .fails(1, &["a.sec", "is there already"]);
    world.run(&["key", "generate", "d-1", "e.sec", "e.sec"]).fails(1, &["e.sec"]);
    assert_eq!(fs_err::read(world.path("a.sec")).unwrap(), before);
    assert!(!world.path("d.sec").exists());
    world.run(&["key", "generate", ""]).fails(1, &["key must"]);
}
