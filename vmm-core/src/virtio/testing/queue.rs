//! The driver's side of one split virtqueue (section 2.7).

use std::{
    collections::BTreeMap,
    sync::atomic::{Ordering::SeqCst, fence},
};

use crate::{
    error::{Error, Result},
    memory::{GuestAddress, GuestMemory},
};

/// One descriptor, as it lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Where the buffer is.
    pub addr: u64,
    /// How long it is.
    pub len: u32,
    /// 1: there is a next one; 2: the device writes it; 4: it is a table of descriptors.
    pub flags: u16,
    /// The index of the next one.
    pub next: u16,
}

impl Descriptor {
    /// Another descriptor follows.
    pub const NEXT: u16 = 1;
    /// The device writes the buffer.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;

    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// A request that the device has completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The descriptor it began with.
    pub head: u16,
    /// How many bytes the device says it has written.
    pub written: u32,
    /// What is in all buffers that the device could write.
    pub data: Vec<u8>,
}

/// What the device has been lent.
#[derive(Debug)]
pub(super) struct Sent {
    /// Address, length, whether the device writes it.
    buffers: Vec<(u64, u32, bool)>,
    table: Option<(u64, u32)>,
    heads: Vec<u16>,
}

impl Sent {
    pub(super) fn written_data(&self, memory: &GuestMemory) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        for &(at, len, _) in self.buffers.iter().filter(|(.., writable)| *writable) {
            let from = data.len();
            data.resize(from + len as usize, 0);
            memory.read(GuestAddress(at), &mut data[from..])?;
        }
        Ok(data)
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = (u64, u32)> {
        self.buffers.iter().map(|&(at, len, _)| (at, len)).chain(self.table)
    }
}

pub(super) struct Queue {
    descriptors: u64,
    driver: u64,
    device: u64,
    size: u16,
    event_idx: bool,
    free: Vec<u16>,
    sent: BTreeMap<u16, Sent>,
    /// Chains made available, and those of them the device may have been told of.
    avail: u16,
    told: u16,
    used: u16,
}

impl Queue {
    pub(super) fn bytes(size: u16) -> u64 {
        let size = u64::from(size);
        16 * size + (6 + 2 * size).next_multiple_of(4) + 6 + 8 * size
    }

    pub(super) fn new(memory: &GuestMemory, at: u64, size: u16, event_idx: bool) -> Result<Self> {
        memory.zero(GuestAddress(at), Self::bytes(size))?;
        let driver = at + 16 * u64::from(size);
        let device = driver + (6 + 2 * u64::from(size)).next_multiple_of(4);
        let free = (0..size).rev().collect();
        let (sent, avail, told, used) = Default::default();
        Ok(Self { descriptors: at, driver, device, size, event_idx, free, sent, avail, told, used })
    }

    pub(super) fn areas(&self) -> [u64; 3] {
        [self.descriptors, self.driver, self.device]
    }

    pub(super) fn outstanding(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn into_sent(self) -> impl Iterator<Item = Sent> {
        self.sent.into_values()
    }

    pub(super) fn submit(
        &mut self,
        memory: &GuestMemory,
        buffers: Vec<(u64, u32, bool)>,
        table: Option<u64>,
    ) -> Result<u16> {
        let count = if table.is_some() { 1 } else { buffers.len() };
        let Some(rest) = self.free.len().checked_sub(count) else {
            return Err(Error::wrong_state("the queue is full"));
        };
        let heads = self.free.split_off(rest);
        let last = buffers.len().saturating_sub(1);
        for (n, &(addr, len, writable)) in buffers.iter().enumerate() {
            let mut flags = if writable { Descriptor::WRITE } else { 0 };
            flags |= if n < last { Descriptor::NEXT } else { 0 };
            let next = match table {
                Some(_) => n as u16 + 1,
                None => heads.get(n + 1).copied().unwrap_or_default(),
            };
            let descriptor = Descriptor { addr, len, flags, next };
            match (table, heads.get(n)) {
                (Some(table), _) => {
                    memory.write(GuestAddress(table + 16 * n as u64), &descriptor.bytes())?;
                }
                (None, Some(&head)) => self.describe(memory, head, descriptor)?,
                (None, None) => {}
            }
        }
        let head = *heads.first().ok_or_else(|| Error::bad_config("a chain without buffers"))?;
        if let Some(addr) = table {
            let len = 16 * buffers.len() as u32;
            let indirect = Descriptor { addr, len, flags: Descriptor::INDIRECT, next: 0 };
            self.describe(memory, head, indirect)?;
        }
        let table = table.map(|at| (at, 16 * buffers.len() as u32));
        self.sent.insert(head, Sent { buffers, table, heads });
        self.offer(memory, head)?;
        Ok(head)
    }

    pub(super) fn describe(
        &self,
        memory: &GuestMemory,
        index: u16,
        descriptor: Descriptor,
    ) -> Result<()> {
        let at = self.descriptors + 16 * u64::from(index);
        memory.write(GuestAddress(at), &descriptor.bytes())
    }

    pub(super) fn offer(&mut self, memory: &GuestMemory, head: u16) -> Result<()> {
        let entry = self.driver + 4 + 2 * u64::from(self.avail % self.size);
        memory.write_obj(GuestAddress(entry), head.to_le())?;
        self.avail = self.avail.wrapping_add(1);
        fence(SeqCst);
        memory.write_obj(GuestAddress(self.driver + 2), self.avail.to_le())
    }

    /// Whether the device asked to be told of what was added since it last was.
    pub(super) fn wants_kick(&mut self, memory: &GuestMemory) -> Result<bool> {
        fence(SeqCst);
        let (new, old) = (self.avail, self.told);
        self.told = new;
        if !self.event_idx {
            let flags: u16 = memory.read_obj(GuestAddress(self.device))?;
            return Ok(u16::from_le(flags) & 1 == 0);
        }
        let event = self.device + 4 + 8 * u64::from(self.size);
        let event = u16::from_le(memory.read_obj(GuestAddress(event))?);
        Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
    }

    /// The next used entry; the device is asked for an interrupt for the one behind it.
    pub(super) fn used(&mut self, memory: &GuestMemory) -> Result<Option<(u32, u32)>> {
        let index = u16::from_le(memory.read_obj(GuestAddress(self.device + 2))?);
        if index == self.used {
            return Ok(None);
        }
        fence(SeqCst);
        let entry = self.device + 4 + 8 * u64::from(self.used % self.size);
        let head = u32::from_le(memory.read_obj(GuestAddress(entry))?);
        let len = u32::from_le(memory.read_obj(GuestAddress(entry + 4))?);
        self.used = self.used.wrapping_add(1);
        let event = self.driver + 4 + 2 * u64::from(self.size);
        memory.write_obj(GuestAddress(event), self.used.to_le())?;
        Ok(Some((head, len)))
    }

    pub(super) fn take_sent(&mut self, head: u32) -> Option<Sent> {
        let sent = self.sent.remove(&u16::try_from(head).ok()?)?;
        self.free.extend(sent.heads.iter().rev());
        Some(sent)
    }
}
