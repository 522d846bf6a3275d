//! The way to what a path names, in the program's own namespace.
//!
//! A walk goes name by name and knows each directory it came through, so that `..` never leads
//! above the root, and a link is followed as if the program had written its target: one in a
//! directory of the host leads to the program's files, never to others of the host.

use std::sync::Arc;

use rustix::io::Errno;
use vmm_core::Result as CoreResult;

use super::{Copies, Listed, Node, Room, View};

/// Linux' limits of a path with its NUL, of a name, and of links on one way.
pub(crate) const MOST_PATH: usize = 4096;
const MOST_NAME: usize = 255;
const MOST_LINKS: usize = 40;
/// The deepest place that a program can be at. Whatever is open keeps its way, so there is an end
/// to that, and to its names: those of a path.
pub(super) const MOST_DEPTH: usize = 256;

/// A node and the way to it.
#[derive(Clone)]
pub(crate) struct Place {
    /// The names from the root on and what they lead to; the last is the place. Empty: the root.
    way: Vec<(Vec<u8>, Arc<dyn Node>)>,
    root: Arc<dyn Node>,
}

/// What a path leads to.
pub(crate) struct Found {
    /// The directory that has, or would have, the name.
    pub(crate) parent: Place,
    /// The last name; `None` if the path ends with the root, `.` or `..`.
    pub(crate) name: Option<Vec<u8>>,
    /// What is there; `None` if there is nothing.
    pub(crate) node: Option<Place>,
    /// The path ended with `/`: it means a directory.
    pub(crate) slash: bool,
}

/// Whether a link at the end of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    Last,
    NotLast,
}

/// A program's tree of files, and where in it the program is.
pub(crate) struct Namespace {
    pub(super) root: Arc<dyn Node>,
    mounts: Vec<Mount>,
    /// What its files in memory, and what the host keeps for them, may take.
    pub(crate) room: Arc<Room>,
    /// How many of them, the last ones, are no news to who lists the directory they are in.
    own: usize,
    pub(crate) current: Place,
}

/// What takes the place of what has this path, names from the root on.
type Mount = (Vec<Vec<u8>>, Arc<dyn Node>);

impl Place {
    fn root(root: &Arc<dyn Node>) -> Self {
        Self { way: Vec::new(), root: Arc::clone(root) }
    }

    pub(crate) fn node(&self) -> &Arc<dyn Node> {
        self.way.last().map_or(&self.root, |(_, node)| node)
    }

    /// The path from the root.
    pub(crate) fn path(&self) -> Vec<u8> {
        if self.way.is_empty() {
            return b"/".to_vec();
        }
        self.way.iter().flat_map(|(name, _)| [b"/", name.as_slice()].concat()).collect()
    }

    /// Whether it is `other` or below it.
    pub(crate) fn is_below(&self, other: &Self) -> bool {
        let mut own = self.names();
        other.names().all(|name| own.next() == Some(name))
    }

    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.way.iter().map(|(name, _)| name.as_slice())
    }

    /// The names from the root on and what they lead to.
    pub(super) fn way(&self) -> &[(Vec<u8>, Arc<dyn Node>)] {
        &self.way
    }

    pub(super) fn root_node(&self) -> &Arc<dyn Node> {
        &self.root
    }

    /// A place that was saved.
    pub(super) fn saved(way: Vec<(Vec<u8>, Arc<dyn Node>)>, root: Arc<dyn Node>) -> Self {
        Self { way, root }
    }

    /// The same place in another sandbox.
    pub(super) fn copy(&self, copies: &mut Copies) -> CoreResult<Self> {
        let step = |(name, node): &(Vec<u8>, Arc<dyn Node>)| Ok((name.clone(), copies.node(node)?));
        let way = self.way.iter().map(step).collect::<CoreResult<_>>()?;
        Ok(Self { way, root: copies.node(&self.root)? })
    }

    /// What has this name there.
    pub(crate) fn with(&self, name: &[u8], node: Arc<dyn Node>) -> Self {
        let mut place = self.clone();
        place.way.push((name.to_vec(), node));
        place
    }
}

impl Found {
    /// What is there.
    pub(crate) fn there(self) -> Result<Place, Errno> {
        self.node.ok_or(Errno::NOENT)
    }

    /// The last name.
    pub(crate) fn name(&self) -> Result<&[u8], Errno> {
        self.name.as_deref().ok_or(Errno::BUSY)
    }
}

impl Namespace {
    pub(crate) fn new(root: Arc<dyn Node>, room: Arc<Room>) -> Self {
        Self { current: Place::root(&root), root, mounts: Vec::new(), room, own: 0 }
    }

    /// The same tree in another sandbox. Whatever else of it is open there is to be copied with the
    /// same `copies`.
    pub(crate) fn copy(&self, copies: &mut Copies) -> CoreResult<Self> {
        let mount = |(path, node): &Mount| Ok((path.clone(), copies.node(node)?));
        let mounts = self.mounts.iter().map(mount).collect::<CoreResult<_>>()?;
        let (root, current) = (copies.node(&self.root)?, self.current.copy(copies)?);
        let room = self.room.copy(copies)?;
        Ok(Self { root, mounts, room, own: self.own, current })
    }

    /// Puts `node` at a path from the root; a later one goes before an earlier one.
    pub(crate) fn mount(&mut self, path: &[u8], node: Arc<dyn Node>) {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let names: Vec<_> = names.map(<[u8]>::to_vec).collect();
        if names.is_empty() {
            self.root = node;
            self.current = Place::root(&self.root);
        } else {
            self.mounts.insert(0, (names, node));
        }
    }

    /// The root and all that is mounted, each with its names from the root on.
    pub(super) fn places(&self) -> impl Iterator<Item = (&[Vec<u8>], &Arc<dyn Node>)> {
        let mounts = self.mounts.iter().map(|(path, node)| (path.as_slice(), node));
        std::iter::once((&[][..], &self.root)).chain(mounts)
    }

    /// What is mounted at exactly this place.
    pub(super) fn granted_at(&self, path: &[Vec<u8>]) -> Option<&Arc<dyn Node>> {
        self.places().find(|(at, _)| *at == path).map(|(_, node)| node)
    }

    /// Makes a tree that was saved the root.
    pub(super) fn set_root(&mut self, root: Arc<dyn Node>) {
        self.root = root;
    }

    /// What is mounted so far comes with every root: it is found there, and not listed.
    pub(super) fn keep_to_oneself(&mut self) {
        self.own = self.mounts.len();
    }

    /// Whether something is mounted at this place, so that its name cannot go.
    pub(crate) fn is_mount(&self, place: &Place) -> bool {
        self.mounts.iter().any(|(path, _)| path.iter().map(Vec::as_slice).eq(place.names()))
    }

    /// Goes along `path`, from `from` if it does not begin with `/`.
    pub(crate) fn find(
        &self,
        from: &Place,
        path: &[u8],
        follow: Follow,
        view: &View<'_>,
    ) -> Result<Found, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let mut at = self.begin(from, path);
        let mut links = 0;
        // What is left of the way, the next name last.
        let mut left = Vec::new();
        let mut slash = push_names(&mut left, path)?;
        while let Some(name) = left.pop() {
            match name.as_slice() {
                b"." => {
                    self.check_directory(&at, view)?;
                    continue;
                }
                b".." => {
                    self.check_directory(&at, view)?;
                    at.way.pop();
                    continue;
                }
                _ => {}
            }
            let is_last = left.is_empty();
            let node = match self.child(&at, &name, view) {
                Err(Errno::NOENT) if is_last => {
                    return Ok(Found { parent: at, name: Some(name), node: None, slash });
                }
                node => node?,
            };
            let is_link = node.status(view)?.is_link();
            if is_link && (!is_last || follow == Follow::Last || slash) {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = node.target(view)?;
                if target.is_empty() {
                    return Err(Errno::NOENT);
                }
                at = self.begin(&at, &target);
                slash |= push_names(&mut left, &target)? && is_last;
                continue;
            }
            if is_last {
                let there = at.with(&name, node);
                if slash {
                    self.check_directory(&there, view)?;
                }
                return Ok(Found { parent: at, name: Some(name), node: Some(there), slash });
            }
            at.way.push((name, node));
        }
        self.check_directory(&at, view)?;
        Ok(Found { parent: at.clone(), name: None, node: Some(at), slash })
    }

    fn begin(&self, from: &Place, path: &[u8]) -> Place {
        if path.starts_with(b"/") { Place::root(&self.root) } else { from.clone() }
    }

    fn check_directory(&self, at: &Place, view: &View<'_>) -> Result<(), Errno> {
        at.node().status(view)?.is_directory().then_some(()).ok_or(Errno::NOTDIR)
    }

    /// What has this name there: something mounted, or the directory's own, or what only leads to
    /// something mounted.
    fn child(&self, at: &Place, name: &[u8], view: &View<'_>) -> Result<Arc<dyn Node>, Errno> {
        let length: usize = at.names().chain([name]).map(|name| name.len() + 1).sum();
        if at.way.len() >= MOST_DEPTH || length >= MOST_PATH {
            return Err(Errno::NAMETOOLONG);
        }
        let own = || at.names().chain([name]);
        let mut below = self.mounts.iter().filter(|(path, _)| begins(path, own()));
        let exact = below.clone().find(|(path, _)| path.len() == at.way.len() + 1);
        match exact {
            Some((_, node)) => Ok(Arc::clone(node)),
            None => match at.node().find(name, view) {
                Err(Errno::NOENT) if below.next().is_some() => Ok(super::proc::Fixed::empty()),
                node => node,
            },
        }
    }

    /// The names in a directory that are there by mounts.
    pub(crate) fn mounted_in(&self, at: &Place) -> Vec<Listed> {
        let told = self.mounts.len().saturating_sub(self.own);
        let below = self.mounts.iter().take(told).filter(|(path, _)| begins(path, at.names()));
        let names = below.filter_map(|(path, _)| path.get(at.way.len()).cloned());
        names.map(|name| Listed { name, inode: 1, kind: libc::S_IFDIR }).collect()
    }
}

/// Whether the first names of a path are these.
fn begins<'a>(path: &[Vec<u8>], names: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut path = path.iter();
    names.into_iter().all(|name| path.next().is_some_and(|own| own == name))
}

/// Puts the names of a path on the pile of what is to be walked, the first on top; whether the path
/// ends with `/`.
fn push_names(left: &mut Vec<Vec<u8>>, path: &[u8]) -> Result<bool, Errno> {
    let names: Vec<_> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    if names.iter().any(|name| name.len() > MOST_NAME) || left.len() + names.len() > MOST_PATH {
        return Err(Errno::NAMETOOLONG);
    }
    left.extend(names.into_iter().rev().map(<[u8]>::to_vec));
    Ok(path.ends_with(b"/"))
}
