//! Files in memory, made of what was saved of them.

use std::{
    any::Any,
    sync::{Arc, Mutex},
};

use rustix::io::Errno;

use super::{
    super::{
        Handle, How, Node, Place,
        saved::{SavedAbout, SavedNode},
    },
    Common, Content, Directory, Link, Open, Regular, Room, cost, directory,
};

/// How many names each of some nodes has, and directories in it.
pub(in crate::files) struct Links(Vec<u64>);

impl Links {
    /// `None` if directories form no tree.
    pub(in crate::files) fn of(nodes: &[SavedNode]) -> Option<Self> {
        let is_directory = |number: u32| {
            nodes.get(number as usize).map(|node| matches!(node, SavedNode::Directory { .. }))
        };
        let (mut names, mut inside) = (vec![0_u64; nodes.len()], vec![0_u64; nodes.len()]);
        for (number, node) in nodes.iter().enumerate() {
            let SavedNode::Directory { entries, .. } = node else { continue };
            for (_, entry) in entries {
                inside[number] += u64::from(is_directory(*entry)?);
                names[*entry as usize] += 1;
            }
        }
        // Whoever is in a circle is reached from no directory that is in none.
        let mut reached = vec![false; nodes.len()];
        let heads = (0..nodes.len()).filter(|number| names[*number] == 0);
        let mut left: Vec<_> = heads.collect();
        while let Some(number) = left.pop() {
            if std::mem::replace(&mut reached[number], true) {
                continue;
            }
            if let SavedNode::Directory { entries, .. } = nodes.get(number)? {
                left.extend(entries.iter().map(|(_, entry)| *entry as usize));
            }
        }
        let is_tree = (0..nodes.len())
            .filter(|number| is_directory(*number as u32) == Some(true))
            .all(|number| reached[number] && names[number] <= 1);
        let is_empty = |number: usize| match nodes.get(number) {
            Some(SavedNode::Directory { entries, .. }) => entries.is_empty(),
            _ => true,
        };
        let links = |number: usize| match is_directory(number as u32) {
            // One that was removed has no name and is empty.
            Some(true) if names[number] == 1 || number == 0 || !is_empty(number) => {
                2 + inside[number]
            }
            Some(true) => 0,
            _ => names[number],
        };
        is_tree.then(|| Self((0..nodes.len()).map(links).collect()))
    }

    pub(in crate::files) fn of_node(&self, number: usize) -> u64 {
        self.0.get(number).copied().unwrap_or(0)
    }
}

/// A directory that was saved, still without entries.
pub(in crate::files) fn directory_of(
    room: &Arc<Room>,
    about: &SavedAbout,
    links: u64,
) -> Result<Arc<dyn Node>, Errno> {
    let common = Common::of_saved(room, about, links)?;
    let (entries, parent) = (Mutex::default(), Mutex::default());
    Ok(Arc::new_cyclic(|me| Directory { common, entries, me: me.clone(), parent }))
}

/// A file that was saved.
pub(in crate::files) fn file_of(
    room: &Arc<Room>,
    about: &SavedAbout,
    links: u64,
    bytes: &[u8],
) -> Result<Arc<dyn Node>, Errno> {
    let common = Common::of_saved(room, about, links)?;
    room.take(bytes.len() as u64)?;
    let bytes = Mutex::new(Arc::new(bytes.to_vec()));
    Ok(Arc::new(Regular(Arc::new(Content { common, bytes }))))
}

/// A link that was saved.
pub(in crate::files) fn link_of(
    room: &Arc<Room>,
    about: &SavedAbout,
    links: u64,
    target: &[u8],
) -> Result<Arc<dyn Node>, Errno> {
    let common = Common::of_saved(room, about, links)?;
    room.take(target.len() as u64)?;
    Ok(Arc::new(Link { common, target: target.to_vec() }))
}

/// Puts entries into the directories among nodes that were saved.
pub(in crate::files) fn connect(saved: &[SavedNode], nodes: &[Arc<dyn Node>]) -> Result<(), Errno> {
    for (saved, node) in saved.iter().zip(nodes) {
        let (SavedNode::Directory { entries, .. }, Some(to)) = (saved, directory(node)) else {
            continue;
        };
        for (name, number) in entries {
            let Some(entry) = nodes.get(*number as usize) else { continue };
            to.common.room.take(cost(name))?;
            if to.entries().insert(name.clone(), Arc::clone(entry)).is_some() {
                to.common.room.give(cost(name));
            }
            if let Some(entry) = directory(entry) {
                *entry.parent() = to.me.clone();
            }
        }
    }
    Ok(())
}

/// A file in memory that was open when it was saved; `None` if that is none.
pub(in crate::files) fn open_of(place: Place, at: u64, how: How) -> Option<Handle> {
    let file: &Regular = (&**place.node() as &dyn Any).downcast_ref()?;
    let content = Arc::clone(&file.0);
    Some(Handle::new(Open { content, at, how, place }))
}
