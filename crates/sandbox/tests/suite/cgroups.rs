//! Commands in control groups of their own.

use std::time::Duration;

use crate::support::{Scene, fresh_user, processes_of, within};
use drover_sandbox::{Cgroup, CgroupFolder, CgroupLeaf, Identity, Ids, Leftovers, Plan};

/// Where test groups are made: beside this process, or where the second version is mounted beside the
/// first.
fn leaf(user: Ids) -> CgroupLeaf {
    let folder =
        CgroupFolder::of_this_process().expect("these tests need control groups, version 2");
    folder.leaf(&format!("drover-test-{}", user.uid)).unwrap()
}

fn put_into(scene: &mut Scene, plan: &mut Plan, leaf: &CgroupLeaf) {
    plan.cgroup = Cgroup::Leaf(scene.handles.add(leaf.folder().unwrap()));
}

#[tokio::test]
async fn a_command_starts_in_its_group() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let leaf = leaf(user);
    let mut plan = scene.bare(Identity::User(user), &["/proc/self/cgroup"]);
    plan.command.program = drover_sandbox::Program::File(b"/bin/cat".to_vec());
    put_into(&mut scene, &mut plan, &leaf);
    let (_, text) = scene.run(&plan).await;
    let group = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    assert!(group.ends_with(&format!("/drover-test-{}", user.uid)), "{text}");
    leaf.remove().unwrap();
}

#[tokio::test]
async fn a_group_is_the_root_of_all_that_is_seen_in_namespaces() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let leaf = leaf(user);
    let mut plan = scene.sandboxed(Identity::User(user), &["/proc/self/cgroup"]);
    plan.command.program = drover_sandbox::Program::File(b"/bin/cat".to_vec());
    put_into(&mut scene, &mut plan, &leaf);
    let (_, text) = scene.run(&plan).await;
    assert!(text.lines().any(|line| line == "0::/"), "{text}");
    leaf.remove().unwrap();
}

#[tokio::test]
async fn what_is_left_in_a_group_is_killed_with_it() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let group = leaf(user);
    let mut plan = scene.bare(Identity::User(user), &["escape", "600"]);
    plan.leftovers = Leftovers::Leave;
    put_into(&mut scene, &mut plan, &group);
    scene.spawn(&plan).await.unwrap().wait().await.unwrap();
    assert_eq!(processes_of(user.uid).len(), 1, "without the group's end, it stays");
    // A group of the same name is what a killed caller has left.
    let group = leaf(user);
    assert!(within(Duration::from_secs(120), || processes_of(user.uid).is_empty()).is_some());
    group.remove().unwrap();
}

#[tokio::test]
async fn groups_in_a_group_are_removed_with_it() {
    let user = fresh_user();
    let leaf = leaf(user);
    leaf.give_to(user).unwrap();
    let folder = leaf.folder().unwrap();
    for name in ["a", "a/b", "c"] {
        rustix::fs::mkdirat(&folder, name, 0o755.into()).unwrap();
    }
    leaf.remove().unwrap();
    let folder = CgroupFolder::of_this_process().unwrap();
    assert!(!folder.path().join(format!("drover-test-{}", user.uid)).exists());
}

#[tokio::test]
async fn a_group_counts_what_nobody_has_waited_for() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let leaf = leaf(user);
    let count = "i=0; while test $i -lt 20000; do i=$((i+1)); done";
    let script = format!("({count}) & {count}; exit 0");
    let mut plan = scene.bare(Identity::User(user), &["-c", &script]);
    plan.command.program = drover_sandbox::Program::File(b"/bin/sh".to_vec());
    put_into(&mut scene, &mut plan, &leaf);
    scene.spawn(&plan).await.unwrap().wait().await.unwrap();
    let usage = leaf.usage().unwrap();
    assert!(Duration::ZERO < usage.user + usage.system, "{usage:?}");
    leaf.remove().unwrap();
}
