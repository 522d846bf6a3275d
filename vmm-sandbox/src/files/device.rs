//! The devices of `/dev` that every program expects.

use std::{io::SeekFrom, sync::Arc};

use rustix::io::Errno;

use vmm_core::Result as CoreResult;

use super::{
    About, Copied, Copies, File, Handle, How, Node, Place, Status, View,
    proc::{Fixed, Which},
    saved::{SavedFile, SavedNode, Saver},
};
use crate::syscall::fill_random;

/// What a device does, and its minor number among Linux' memory devices (`mem(4)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    Null = 3,
    Zero = 5,
    Full = 7,
    Random = 8,
    Urandom = 9,
}

/// The directory `/dev`.
pub(super) fn directory() -> Arc<dyn Node> {
    let devices = [
        ("full", Device::Full),
        ("null", Device::Null),
        ("random", Device::Random),
        ("urandom", Device::Urandom),
        ("zero", Device::Zero),
    ];
    let node = |device| Arc::new(device) as Arc<dyn Node>;
    let links = [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")];
    let links = links.map(|(name, end)| {
        let target = format!("/proc/self/fd{end}").into_bytes();
        (name, super::proc::link(target))
    });
    let devices = devices.map(|(name, device)| (name, node(device)));
    Fixed::directory(Which::Devices, devices.into_iter().chain(links))
}

/// The device of this number.
pub(super) fn saved(number: u8) -> Option<Arc<dyn Node>> {
    Some(Arc::new(Device::of_number(number)?))
}

/// A device of this number that is open.
pub(super) fn saved_open(number: u8, how: How, place: Place) -> Option<Handle> {
    Some(Handle::new(Open { device: Device::of_number(number)?, how, place }))
}

impl Device {
    fn of_number(number: u8) -> Option<Self> {
        let all = [Self::Null, Self::Zero, Self::Full, Self::Random, Self::Urandom];
        all.into_iter().find(|device| *device as u8 == number)
    }

    fn describe(self) -> Status {
        let (major, minor) = (1, self as u64);
        Status {
            device: super::proc::DEVICE,
            inode: 100 + minor,
            special: major << 8 | minor,
            owner: Some((0, 0)),
            ..Status::of_mode(libc::S_IFCHR | 0o666)
        }
    }
}

impl Node for Device {
    fn status(&self, _: &View<'_>) -> Result<Status, Errno> {
        Ok(self.describe())
    }

    fn open(&self, how: How, place: &Place, _: &View<'_>) -> Result<Handle, Errno> {
        Ok(Handle::new(Open { device: *self, how, place: place.clone() }))
    }

    fn save(&self, _: &mut Saver) -> CoreResult<SavedNode> {
        Ok(SavedNode::Device(*self as u8))
    }
}

/// A device that is open.
struct Open {
    device: Device,
    how: How,
    place: Place,
}

impl File for Open {
    fn read(&mut self, data: &mut [u8]) -> Result<usize, Errno> {
        if !self.how.read {
            return Err(Errno::BADF);
        }
        match self.device {
            Device::Null => return Ok(0),
            Device::Full | Device::Zero => data.fill(0),
            Device::Random | Device::Urandom => fill_random(data)?,
        }
        Ok(data.len())
    }

    fn write(&mut self, data: &[u8]) -> Result<usize, Errno> {
        match self.device {
            _ if !self.how.write => Err(Errno::BADF),
            Device::Full => Err(Errno::NOSPC),
            _ => Ok(data.len()),
        }
    }

    fn status(&self) -> Result<Status, Errno> {
        Ok(self.device.describe())
    }

    fn read_at(&mut self, _: u64, data: &mut [u8]) -> Result<usize, Errno> {
        self.read(data)
    }

    fn write_at(&mut self, _: u64, data: &[u8]) -> Result<usize, Errno> {
        self.write(data)
    }

    fn seek(&mut self, _: SeekFrom) -> Result<u64, Errno> {
        Ok(0)
    }

    fn about(&self) -> About<'_> {
        About::at(&self.place, self.how.flags())
    }
}

impl Copied for Open {
    fn copy(&self, copies: &mut Copies) -> CoreResult<Handle> {
        Ok(Handle::new(Self { place: self.place.copy(copies)?, ..*self }))
    }

    fn save(&self, saver: &mut Saver) -> CoreResult<SavedFile> {
        let (device, how) = (self.device as u8, self.how);
        Ok(SavedFile::Device { device, how, place: saver.place(&self.place) })
    }
}
