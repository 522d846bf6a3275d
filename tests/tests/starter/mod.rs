//! A guest that starts all its vCPUs.

use vmm_core::{boot::Flat, memory::GuestAddress};

/// The first vCPU enters at offset 16, in long mode, and starts the others; SIPI vector 0x10 is
/// address 0x10000, where the image is. The first of them to get there writes to port 0x80 and ends
/// the machine with 9.
const GUEST: &[u8] = &[
    0xe6, 0x80, //                      out 0x80, al
    0xb0, 9, //                         mov al, 9
    0xe6, 0xf4, //                      out 0xf4, al
    0xf4, //                            hlt
    0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, //
    0xbe, 0x00, 0x03, 0xe0, 0xfe, //    mov esi, 0xfee00300, the interrupt command register
    0xc7, 0x06, 0x00, 0x45, 0x0c, 0x00, // mov dword [rsi], INIT to all others
    0xc7, 0x06, 0x10, 0x46, 0x0c, 0x00, // mov dword [rsi], SIPI to all others
    0xc7, 0x06, 0x10, 0x46, 0x0c, 0x00, // and once more, as the manual has it
    0xeb, 0xfe, //                      jmp to itself
];

/// Where the first vCPU enters.
pub(crate) const ENTRY: GuestAddress = GuestAddress(0x1_0010);

/// What loads it.
pub(crate) fn image() -> Flat {
    Flat::long_mode(GUEST).entry(ENTRY)
}
