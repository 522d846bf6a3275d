//! What passes between a device and its driver, counted.

/// What has passed between a virtio device and its driver since the device was made. Resets do not
/// change it; it is not saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// How often the driver rang, for whatever queue.
    pub notifications: u64,
    /// How often the device interrupted, whether there were several reasons or one.
    pub interrupts: u64,
    /// Chains of buffers that the device took.
    pub requests: u64,
    /// Bytes in those of their buffers that the device reads.
    pub read_bytes: u64,
    /// Bytes that the device told the driver it has written.
    pub written_bytes: u64,
    /// Chains that the device [failed](super::Chain::fail), and mistakes of the driver's that
    /// stopped the device until a reset.
    pub errors: u64,
}

impl Traffic {
    /// One queue's share, and another's.
    pub(super) fn add(&mut self, other: &Self) {
        let Self { notifications, interrupts, requests, read_bytes, written_bytes, errors } = self;
        *notifications += other.notifications;
        *interrupts += other.interrupts;
        *requests += other.requests;
        *read_bytes += other.read_bytes;
        *written_bytes += other.written_bytes;
        *errors += other.errors;
    }
}
