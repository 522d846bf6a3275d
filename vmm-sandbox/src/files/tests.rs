//! Trees in memory and the way through them, as the system calls use both.

use std::sync::Arc;

use rustix::io::Errno;
use vmm_core::hv::{Hypervisor, VmConfig, script::Script};

use super::{Files, Follow, Found, Handle, How, Kind, Namespace, Node, Set, View, empty};
use crate::{space::Space, stream::Input};

/// A program's files without the program.
struct World {
    files: Files,
    space: Space,
    namespace: Namespace,
}

const READ: How = How { read: true, write: false, append: false, truncate: false };
const WRITE: How = How { read: true, write: true, append: false, truncate: false };

impl World {
    fn new(limit: u64) -> Self {
        let vm = Script::new([]).create_vm(&VmConfig { vcpus: 1, irq: None }).unwrap();
        let streams = [(); 3].map(|()| Handle::new(Input::empty()));
        let space = Space::new(vm, 1 << 20).unwrap();
        Self { files: Files::new(streams), space, namespace: empty(limit).unwrap() }
    }

    fn view(&self) -> View<'_> {
        let (files, space, room) = (&self.files, &self.space, &self.namespace.room);
        View { files, space, program: b"/p", room, mounted: Vec::new() }
    }

    fn walk(&self, path: &str, follow: Follow) -> Result<Found, Errno> {
        self.namespace.find(&self.namespace.current, path.as_bytes(), follow, &self.view())
    }

    /// The path at which a path ends, links followed.
    fn way(&self, path: &str) -> Result<String, Errno> {
        let place = self.walk(path, Follow::Last)?.there()?;
        Ok(String::from_utf8(place.path()).unwrap())
    }

    fn node(&self, path: &str) -> Arc<dyn Node> {
        self.walk(path, Follow::NotLast).unwrap().there().unwrap().node().clone()
    }

    fn make(&self, path: &str, kind: Kind<'_>) -> Result<Arc<dyn Node>, Errno> {
        let found = self.walk(path, Follow::NotLast)?;
        found.parent.node().make(found.name()?, kind, 0o755)
    }

    fn link(&self, path: &str, target: &str) {
        self.make(path, Kind::Link(target.as_bytes())).unwrap();
    }

    fn open(&self, path: &str, how: How) -> Result<Handle, Errno> {
        let place = self.walk(path, Follow::Last)?.there()?;
        place.node().open(how, &place, &self.view())
    }

    fn remove(&self, path: &str, directory: bool) -> Result<(), Errno> {
        let found = self.walk(path, Follow::NotLast)?;
        found.parent.node().remove(found.name()?, directory)
    }

    fn rename(&self, old: &str, new: &str) -> Result<(), Errno> {
        let (from, to) = (self.walk(old, Follow::NotLast)?, self.walk(new, Follow::NotLast)?);
        from.parent.node().rename(from.name()?, to.parent.node(), to.name()?, false)
    }

    fn links(&self, path: &str) -> u64 {
        self.node(path).status(&self.view()).unwrap().links
    }

    /// How much a file can still take.
    fn left(&self) -> u64 {
        let file = self.make("/left", Kind::File).unwrap();
        let mut left = 0;
        for bit in (0..24).rev() {
            if file.set(Set::Len(left | 1 << bit)).is_ok() {
                left |= 1 << bit;
            }
        }
        drop(file);
        self.remove("/left", false).unwrap();
        left
    }
}

#[test]
fn what_is_deleted_can_be_used_again() {
    let world = World::new(1 << 20);
    let all = world.left();
    for round in 0..3 {
        world.make("/d", Kind::Directory).unwrap();
        world.make("/d/file", Kind::File).unwrap().set(Set::Len(300_000)).unwrap();
        world.link("/d/link", "of some length");
        world.rename("/d/file", "/a longer name").unwrap();
        assert!(world.left() < all - 300_000, "round {round}");
        world.remove("/a longer name", false).unwrap();
        world.remove("/d/link", false).unwrap();
        world.remove("/d", true).unwrap();
        assert_eq!(world.left(), all, "round {round}");
    }
}

#[test]
fn a_deleted_file_counts_until_it_is_closed() {
    let world = World::new(1 << 20);
    let all = world.left();
    world.make("/file", Kind::File).unwrap().set(Set::Len(500_000)).unwrap();
    let file = world.open("/file", WRITE).unwrap();
    world.remove("/file", false).unwrap();
    assert!(world.left() < all - 500_000);
    assert_eq!(file.lock().status().unwrap().links, 0);
    assert_eq!(file.lock().write_at(600_000, b"still there").unwrap(), 11);
    drop(file);
    assert_eq!(world.left(), all);
}

#[test]
fn a_shorter_file_gives_back_what_it_had() {
    let world = World::new(1 << 20);
    let (all, file) = (world.left(), world.make("/file", Kind::File).unwrap());
    for len in [900_000, 0, 900_000, 10, 900_000] {
        file.set(Set::Len(len)).unwrap();
        assert_eq!(file.set(Set::Len(2 << 20)), Err(Errno::NOSPC));
        assert_eq!(file.status(&world.view()).unwrap().size, len);
    }
    drop(file);
    world.remove("/file", false).unwrap();
    assert_eq!(world.left(), all);
}

#[test]
fn names_and_lists_of_them_count_too() {
    let world = World::new(64 << 10);
    world.make("/d", Kind::Directory).unwrap();
    let made = (0..1000).take_while(|n| world.make(&format!("/d/{n}"), Kind::File).is_ok()).count();
    assert!((100..256).contains(&made), "{made}");
    assert_eq!(world.open("/d", READ).err(), Some(Errno::NOMEM));
    for n in 0..made / 2 {
        world.remove(&format!("/d/{n}"), false).unwrap();
    }
    let left = world.left();
    let open = world.open("/d", READ).unwrap();
    assert!(world.left() < left);
    drop(open);
    assert_eq!(world.left(), left);
}

#[test]
fn renaming_replaces_what_it_may() {
    let world = World::new(1 << 20);
    for name in ["/d", "/empty", "/full"] {
        world.make(name, Kind::Directory).unwrap();
    }
    for name in ["/f", "/g", "/full/x"] {
        world.make(name, Kind::File).unwrap();
    }
    assert_eq!(world.rename("/none", "/f"), Err(Errno::NOENT));
    assert_eq!(world.rename("/f", "/d"), Err(Errno::ISDIR));
    assert_eq!(world.rename("/d", "/f"), Err(Errno::NOTDIR));
    assert_eq!(world.rename("/d", "/full"), Err(Errno::NOTEMPTY));
    assert_eq!(world.rename("/f", "/f"), Ok(()));
    let file = world.node("/f");
    world.rename("/f", "/g").unwrap();
    assert!(Arc::ptr_eq(&file, &world.node("/g")));
    assert_eq!(world.way("/f"), Err(Errno::NOENT));
    let before = world.links("/full");
    world.rename("/d", "/empty").unwrap();
    world.rename("/empty", "/full/d").unwrap();
    assert_eq!(world.links("/full"), before + 1);
    assert_eq!(world.way("/full/d/.."), Ok("/full".into()));
}

#[test]
fn a_full_tree_loses_nothing_by_a_rename() {
    let world = World::new(4096);
    world.make("/a", Kind::File).unwrap();
    world.make("/b", Kind::File).unwrap();
    let file = world.make("/filler", Kind::File).unwrap();
    while file.set(Set::Len(file.status(&world.view()).unwrap().size + 1)).is_ok() {}
    assert_eq!(world.rename("/a", "/b"), Err(Errno::NOSPC));
    assert!(world.way("/a").is_ok() && world.way("/b").is_ok());
}

#[test]
fn a_directory_cannot_go_into_itself() {
    let mut world = World::new(1 << 20);
    for path in ["/a", "/a/b", "/a/b/c", "/d"] {
        world.make(path, Kind::Directory).unwrap();
    }
    for to in ["/a/x", "/a/b/x", "/a/b/c/x"] {
        assert_eq!(world.rename("/a", to), Err(Errno::INVAL), "{to}");
    }
    // From a directory that was moved, the path of where one is tells something else.
    world.namespace.current = world.walk("/a/b/c", Follow::Last).unwrap().there().unwrap();
    world.rename("/a/b/c", "/d/c").unwrap();
    assert_eq!(world.rename("/d", "x"), Err(Errno::INVAL));
    world.rename("/a", "x").unwrap();
    assert_eq!(world.way("/d/c/x/b"), Ok("/d/c/x/b".into()));
}

#[test]
fn nothing_is_made_in_a_directory_that_is_gone() {
    let mut world = World::new(1 << 20);
    world.make("/d", Kind::Directory).unwrap();
    world.make("/f", Kind::File).unwrap();
    world.namespace.current = world.walk("/d", Follow::Last).unwrap().there().unwrap();
    world.remove("/d", true).unwrap();
    for kind in [Kind::Directory, Kind::File, Kind::Link(b"x")] {
        assert_eq!(world.make("x", kind).err(), Some(Errno::NOENT));
    }
    assert_eq!(world.rename("/f", "f"), Err(Errno::NOENT));
    assert!(world.way("/f").is_ok());
}

#[test]
fn a_tree_of_any_depth_is_taken_apart() {
    let world = World::new(64 << 20);
    // Deeper than paths reach: as by chdir and rename.
    let mut at = world.node("/tmp");
    for _ in 0..200_000 {
        at = at.make(b"d", Kind::Directory, 0o755).unwrap();
    }
    drop(at);
    let path = |depth| "/tmp".to_owned() + &"/d".repeat(depth);
    assert!(world.way(&path(255)).is_ok());
    assert_eq!(world.way(&path(256)), Err(Errno::NAMETOOLONG));
    drop(world);
}

#[test]
fn a_place_has_its_depth() {
    let mut world = World::new(4 << 20);
    let mut made = 0;
    while world.make("d", Kind::Directory).is_ok() {
        world.namespace.current = world.walk("d", Follow::Last).unwrap().there().unwrap();
        made += 1;
        assert!(made <= 4096);
    }
    assert_eq!(world.way("d"), Err(Errno::NAMETOOLONG));
    assert!(world.way("../../..").is_ok());
}

#[test]
fn the_path_of_a_place_is_no_longer_than_a_path() {
    let mut world = World::new(4 << 20);
    let name = "n".repeat(255);
    while world.make(&name, Kind::Directory).is_ok() {
        world.namespace.current = world.walk(&name, Follow::Last).unwrap().there().unwrap();
    }
    let length = world.namespace.current.path().len();
    assert!((3800..4096).contains(&length), "{length}");
}

#[test]
fn second_names_count() {
    let world = World::new(64 << 10);
    let file = world.make("/f", Kind::File).unwrap();
    let root = world.namespace.current.node();
    let made = (0..10_000).take_while(|n| root.link(n.to_string().as_bytes(), &file).is_ok());
    let made = made.count();
    assert!((500..1000).contains(&made), "{made}");
    (0..made).for_each(|n| world.remove(&n.to_string(), false).unwrap());
    assert!(world.left() > 60 << 10);
}

#[test]
fn lists_of_what_is_no_tree_in_memory_count() {
    let directory = tempfile::tempdir().unwrap();
    for n in 0..300 {
        std::fs::write(directory.path().join(format!("{n:0100}")), "").unwrap();
    }
    let mut world = World::new(64 << 10);
    world.namespace.mount(b"/host", super::grant(directory.path(), true).unwrap());
    let left = world.left();
    let open = world.open("/host", READ).unwrap();
    assert!(world.left() < left - 30_000);
    assert_eq!(world.open("/host", READ).err(), Some(Errno::NOMEM));
    drop(open);
    assert_eq!(world.left(), left);
    let space = &mut world.space;
    for n in 0..1000 {
        space.map(0x20_0000 + 2 * n * 4096, 4096, crate::space::Protection::NONE).unwrap();
    }
    let open = world.open("/proc/self/maps", READ).unwrap();
    assert!(world.left() < left - 30_000);
    assert_eq!(world.open("/proc/self/maps", READ).err(), Some(Errno::NOMEM));
    drop(open);
    assert_eq!(world.left(), left);
}

#[test]
fn a_walk_goes_by_dots_and_links() {
    let world = World::new(1 << 20);
    for path in ["/a", "/a/b"] {
        world.make(path, Kind::Directory).unwrap();
    }
    world.make("/a/b/file", Kind::File).unwrap();
    for (path, target) in [
        ("/absolute", "/a/b"),
        ("/a/relative", "b/file"),
        ("/a/b/up", "../.."),
        ("/chain", "absolute/up/a/relative"),
        ("/dangling", "none"),
        ("/slash", "a/b/file/"),
        ("/loop", "loop2"),
        ("/loop2", "./loop"),
    ] {
        world.link(path, target);
    }
    let cases: [(&str, Result<&str, Errno>); 22] = [
        ("/", Ok("/")),
        ("///a//b/", Ok("/a/b")),
        ("a/./b/../b/file", Ok("/a/b/file")),
        ("/../../a", Ok("/a")),
        ("absolute/file", Ok("/a/b/file")),
        ("absolute/..", Ok("/a")),
        ("a/relative", Ok("/a/b/file")),
        ("a/b/up", Ok("/")),
        ("a/b/up/a/b/up/a", Ok("/a")),
        ("chain", Ok("/a/b/file")),
        ("proc/self/..", Ok("/proc")),
        ("", Err(Errno::NOENT)),
        ("none/..", Err(Errno::NOENT)),
        ("dangling", Err(Errno::NOENT)),
        ("a/b/file/", Err(Errno::NOTDIR)),
        ("a/b/file/.", Err(Errno::NOTDIR)),
        ("a/b/file/..", Err(Errno::NOTDIR)),
        ("a/b/file/x", Err(Errno::NOTDIR)),
        ("slash", Err(Errno::NOTDIR)),
        ("loop", Err(Errno::LOOP)),
        ("loop/x", Err(Errno::LOOP)),
        ("a/b/up/loop2/", Err(Errno::LOOP)),
    ];
    for (path, expected) in cases {
        assert_eq!(world.way(path), expected.map(str::to_owned), "{path:?}");
    }
    let link = world.walk("absolute", Follow::NotLast).unwrap().there().unwrap();
    assert_eq!(link.node().target(&world.view()).unwrap(), b"/a/b");
    // With a slash behind, even then what it leads to is meant.
    let there = world.walk("absolute/", Follow::NotLast).unwrap().there().unwrap();
    assert_eq!(there.path(), b"/a/b");
}

#[test]
fn names_and_links_have_their_limits() {
    let world = World::new(1 << 20);
    let (most, more) = ("n".repeat(255), "n".repeat(256));
    world.make(&most, Kind::File).unwrap();
    assert_eq!(world.make(&more, Kind::File).err(), Some(Errno::NAMETOOLONG));
    assert_eq!(world.way(&format!("none/{more}")), Err(Errno::NAMETOOLONG));
    world.make("/0", Kind::Directory).unwrap();
    for n in 1..=41 {
        world.link(&format!("/{n}"), &(n - 1).to_string());
    }
    assert_eq!(world.way("/40"), Ok("/0".into()));
    assert_eq!(world.way("/41"), Err(Errno::LOOP));
}
