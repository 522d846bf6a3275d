//! What a program has open and where it finds what it can open, as a record that outlives both.
//!
//! What is in memory is kept with its content, whether or not it still has a name. What is the
//! host's is not: standard streams and directories are given again by who opens the record, and files
//! in them are found by where they are now. The record is untrusted: directories form a tree, counts
//! of links and ends are worked out anew, and all of it takes room as if the program had made it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vmm_core::{Error, Result, persist::Kind};

use super::{
    Descriptor, Files, Handle, How, Listed, MOST, Namespace, Node, Place, Room, Status, device,
    host, list, path::MOST_DEPTH, pipe, proc, tree,
};

pub(crate) const RECORD: Kind = Kind { name: "files", version: 1 };

/// All of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    nodes: Vec<SavedNode>,
    handles: Vec<SavedFile>,
    /// What is in each pipe.
    pipes: Vec<Vec<u8>>,
    /// By descriptor: the handle, and whether it closes on exec.
    descriptors: Vec<Option<(u32, bool)>>,
    /// The root, unless it is a directory of the host.
    root: Option<u32>,
    current: SavedPlace,
    grants: Vec<SavedGrant>,
    next_inode: u64,
}

/// A directory of the host: where the program finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedGrant {
    /// From the root on, which is no name at all.
    pub(crate) path: Vec<Vec<u8>>,
    pub(crate) read_only: bool,
}

/// Something that has, or had, a name. Numbers are places in [`Record::nodes`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SavedNode {
    Directory {
        about: SavedAbout,
        entries: Vec<(Vec<u8>, u32)>,
    },
    File {
        about: SavedAbout,
        bytes: Vec<u8>,
    },
    Link {
        about: SavedAbout,
        target: Vec<u8>,
    },
    /// Below a granted directory.
    Granted {
        grant: u32,
        path: Vec<Vec<u8>>,
    },
    /// One of the sandbox's own devices.
    Device(u8),
    /// Something of its own `/proc`, or a directory that never changes.
    Own(proc::Saved),
}

/// What anything in memory has.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedAbout {
    pub(super) inode: u64,
    pub(super) mode: u32,
    pub(super) times: [std::time::Duration; 3],
}

/// A place: the names on the way to it, and what they lead to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedPlace {
    pub(super) way: Vec<(Vec<u8>, u32)>,
    pub(super) root: u32,
}

/// Something that is open.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SavedFile {
    /// Standard input, output, error.
    Stream(u8),
    Pipe {
        pipe: u32,
        writes: bool,
        nonblocking: bool,
    },
    Memory {
        at: u64,
        how: How,
        place: SavedPlace,
    },
    Directory {
        names: Vec<Listed>,
        next: u64,
        status: Status,
        how: How,
        place: SavedPlace,
    },
    Text {
        text: Vec<u8>,
        at: u64,
        place: SavedPlace,
    },
    Device {
        device: u8,
        how: How,
        place: SavedPlace,
    },
    Granted {
        at: u64,
        how: How,
        place: SavedPlace,
    },
}

/// Collects what is to be saved; each thing once.
pub(crate) struct Saver {
    numbers: HashMap<usize, u32>,
    nodes: Vec<Arc<dyn Node>>,
    handles: Vec<Handle>,
    pipes: Vec<Vec<u8>>,
    /// The directories of the host, and where the host has them.
    grants: Vec<(host::Located, SavedGrant)>,
}

impl Saver {
    /// The number of a thing, and whether it is new.
    fn number(&mut self, address: usize, next: usize) -> (u32, bool) {
        let known = self.numbers.get(&address).copied();
        let next = u32::try_from(next).unwrap_or(u32::MAX);
        (*self.numbers.entry(address).or_insert(next), known.is_none())
    }

    pub(super) fn node(&mut self, node: &Arc<dyn Node>) -> u32 {
        let address = Arc::as_ptr(node).cast::<()>().addr();
        let (number, is_new) = self.number(address, self.nodes.len());
        if is_new {
            self.nodes.push(Arc::clone(node));
        }
        number
    }

    fn handle(&mut self, handle: &Handle) -> u32 {
        let address = Arc::as_ptr(&handle.0).cast::<()>().addr();
        let (number, is_new) = self.number(address, self.handles.len());
        if is_new {
            self.handles.push(handle.clone());
        }
        number
    }

    pub(super) fn pipe<T>(&mut self, pipe: &Arc<T>, bytes: impl FnOnce() -> Vec<u8>) -> u32 {
        let (number, is_new) = self.number(Arc::as_ptr(pipe).addr(), self.pipes.len());
        if is_new {
            self.pipes.push(bytes());
        }
        number
    }

    pub(super) fn place(&mut self, place: &Place) -> SavedPlace {
        let way = place.way().iter().map(|(name, node)| (name.clone(), self.node(node))).collect();
        SavedPlace { way, root: self.node(place.root_node()) }
    }

    /// The directory of the host that something is in, and the way from there.
    pub(super) fn granted(&self, own: &host::Located) -> Option<(u32, Vec<Vec<u8>>)> {
        let ways = (0..).zip(&self.grants);
        let ways = ways.filter_map(|(n, (grant, _))| Some((n, own.way_from(grant)?)));
        ways.min_by_key(|(_, way)| way.len())
    }
}

impl Files {
    /// All that is open, and the tree it was found in.
    ///
    /// # Errors
    /// `Unsupported` with its path if something cannot be found again; `Host` if the host does not
    /// say where a file of its own is.
    pub(crate) fn record(&self, namespace: &Namespace) -> Result<Record> {
        let mut grants = Vec::new();
        for (path, node) in namespace.places() {
            if let Some((located, read_only)) = host::granted(node)? {
                grants.push((located, SavedGrant { path: path.to_vec(), read_only }));
            }
        }
        let root = host::granted(&namespace.root)?.is_none();
        let mut saver = Saver {
            numbers: HashMap::new(),
            nodes: Vec::new(),
            handles: Vec::new(),
            pipes: Vec::new(),
            grants,
        };
        let root = root.then(|| saver.node(&namespace.root));
        let current = saver.place(&namespace.current);
        let descriptor = |slot: &Option<Descriptor>| {
            slot.as_ref().map(|slot| (saver.handle(&slot.file), slot.closes))
        };
        let descriptors = self.open.iter().map(descriptor).collect();
        let (mut handles, mut nodes) = (Vec::new(), Vec::new());
        // Each may name further ones.
        while let Some(handle) = saver.handles.get(handles.len()).cloned() {
            let saved = handle.lock().save(&mut saver)?;
            handles.push(saved);
        }
        while let Some(node) = saver.nodes.get(nodes.len()).cloned() {
            nodes.push(node.save(&mut saver)?);
        }
        let grants = saver.grants.into_iter().map(|(_, grant)| grant).collect();
        let (pipes, next_inode) = (saver.pipes, namespace.room.next_inode());
        Ok(Record { nodes, handles, pipes, descriptors, root, current, grants, next_inode })
    }
}

impl Record {
    /// The directories of the host that the program was granted.
    pub(crate) fn grants(&self) -> &[SavedGrant] {
        &self.grants
    }

    /// Whether its root is a directory of the host.
    pub(crate) fn has_granted_root(&self) -> bool {
        self.root.is_none()
    }

    /// Opens everything again, in a namespace that has nothing but what is granted now, and with
    /// these standard streams.
    ///
    /// # Errors
    /// `Snapshot` if the record contradicts itself; `BadConfig` if the files take more than their
    /// limit; `Host` with its path if a file of the host is not there any more.
    pub(crate) fn open(&self, namespace: &mut Namespace, streams: [Handle; 3]) -> Result<Files> {
        let mut opener = Opener {
            nodes: Vec::new(),
            pipes: pipe::saved(&self.pipes).ok_or_else(|| bad("a pipe is too full"))?,
            streams,
            room: Arc::clone(&namespace.room),
        };
        let links = tree::Links::of(&self.nodes).ok_or_else(|| bad("directories form no tree"))?;
        for (number, node) in self.nodes.iter().enumerate() {
            let made = self.node(namespace, node, links.of_node(number))?;
            opener.nodes.push(made);
        }
        tree::connect(&self.nodes, &opener.nodes).map_err(full)?;
        if let Some(root) = self.root {
            namespace.set_root(opener.node(root)?);
        }
        namespace.current = opener.place(&self.current)?;
        namespace.room.set_next_inode(self.next_inode);
        let handles: Vec<_> =
            self.handles.iter().map(|saved| opener.file(saved)).collect::<Result<_>>()?;
        if self.descriptors.len() > MOST {
            return Err(bad("too many descriptors"));
        }
        let descriptor = |slot: &Option<(u32, bool)>| {
            let descriptor = slot.map(|(handle, closes)| {
                let file = handles.get(handle as usize).cloned();
                let file = file.ok_or_else(|| bad("a descriptor of nothing"))?;
                Ok(Descriptor { file, closes })
            });
            descriptor.transpose()
        };
        Ok(Files { open: self.descriptors.iter().map(descriptor).collect::<Result<_>>()? })
    }

    fn node(&self, namespace: &Namespace, saved: &SavedNode, links: u64) -> Result<Arc<dyn Node>> {
        let room = &namespace.room;
        Ok(match saved {
            SavedNode::Directory { about, .. } => {
                tree::directory_of(room, about, links).map_err(full)?
            }
            SavedNode::File { about, bytes } => {
                tree::file_of(room, about, links, bytes).map_err(full)?
            }
            SavedNode::Link { about, target } => {
                tree::link_of(room, about, links, target).map_err(full)?
            }
            SavedNode::Granted { grant, path } => {
                let grant = self.grants.get(*grant as usize);
                let place = grant.and_then(|grant| namespace.granted_at(&grant.path));
                let root = place.ok_or_else(|| bad("a directory that was not granted"))?;
                host::walk(root, path).map_err(|errno| {
                    let path = path.join(&b'/').escape_ascii().to_string();
                    Error::host(format!("opening {path:?} again"), errno.raw_os_error())
                })?
            }
            SavedNode::Device(number) => {
                device::saved(*number).ok_or_else(|| bad("an unknown device"))?
            }
            SavedNode::Own(own) => proc::saved(own),
        })
    }
}

/// Opens what was saved.
pub(super) struct Opener {
    nodes: Vec<Arc<dyn Node>>,
    pipes: Vec<Arc<Mutex<pipe::Shared>>>,
    streams: [Handle; 3],
    pub(super) room: Arc<Room>,
}

impl Opener {
    fn node(&self, number: u32) -> Result<Arc<dyn Node>> {
        self.nodes.get(number as usize).cloned().ok_or_else(|| bad("a number of nothing"))
    }

    fn place(&self, saved: &SavedPlace) -> Result<Place> {
        if saved.way.len() > MOST_DEPTH {
            return Err(bad("a place that is too deep"));
        }
        let step = |(name, node): &(Vec<u8>, u32)| Ok((name.clone(), self.node(*node)?));
        let way = saved.way.iter().map(step).collect::<Result<_>>()?;
        Ok(Place::saved(way, self.node(saved.root)?))
    }

    fn file(&self, saved: &SavedFile) -> Result<Handle> {
        let wrong = || bad("an open file of another kind");
        Ok(match saved {
            SavedFile::Stream(number) => {
                self.streams.get(usize::from(*number)).cloned().ok_or_else(wrong)?
            }
            SavedFile::Pipe { pipe, writes, nonblocking } => {
                let shared = self.pipes.get(*pipe as usize).ok_or_else(wrong)?;
                pipe::saved_end(shared, *writes, *nonblocking)
            }
            SavedFile::Memory { at, how, place } => {
                tree::open_of(self.place(place)?, *at, *how).ok_or_else(wrong)?
            }
            SavedFile::Directory { names, next, status, how, place } => {
                let place = self.place(place)?;
                let next = usize::try_from(*next).unwrap_or(usize::MAX);
                list::saved(names, next, (*status, *how), place, &self.room).map_err(full)?
            }
            SavedFile::Text { text, at, place } => {
                proc::saved_text(text, *at, self.place(place)?, &self.room).map_err(full)?
            }
            SavedFile::Device { device, how, place } => {
                device::saved_open(*device, *how, self.place(place)?).ok_or_else(wrong)?
            }
            SavedFile::Granted { at, how, place } => {
                let place = self.place(place)?;
                let path = place.path().escape_ascii().to_string();
                host::saved_open(place, *how, *at).map_err(|errno| {
                    Error::host(format!("opening {path} again"), errno.raw_os_error())
                })?
            }
        })
    }
}

fn bad(what: &str) -> Error {
    Error::snapshot(format!("files: {what}"))
}

/// The room is all there is that can be missing.
fn full(_: Errno) -> Error {
    Error::bad_config("files: they take more than the limit of files")
}
