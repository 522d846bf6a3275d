//! What stands in the way of a snapshot in a file.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::ffi::{CString, c_char};

use ::vmm_sandbox::Obstacle;

use crate::{
    error::{self, vmm_error, vmm_status},
    guard::{guard, tell},
    pass,
    sandbox_config::vmm_sandbox_config,
};

/// Kinds of obstacles. Numbers never change; new ones may come.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum vmm_obstacle_kind {
    /// Another, which the text tells.
    Other = 0,
    /// The program was granted a directory of the host at this path, and is not now, or may only
    /// read it now, or finds one where its own files were.
    Directory = 1,
    /// It may have seen this feature of the processor, which is not to be had here.
    Feature = 2,
    /// It could call this function of the host, which was not given.
    Function = 3,
    /// It has something in these registers, which are not to be had here, or lie at another place.
    Registers = 4,
}

/// A reason why a snapshot in a file would not run as it did where it was made.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vmm_obstacle {
    /// What kind of thing is missing.
    pub kind: vmm_obstacle_kind,
    /// Which one: a path, a feature, a function, or bits of XCR0 such as "0x200" for registers.
    pub name: *const c_char,
    /// The whole reason in one line, such as `no host function "points" was given`.
    pub text: *const c_char,
}

/// All that stands in the way of a snapshot in a file.
pub struct vmm_obstacles {
    found: Vec<vmm_obstacle>,
    /// What the obstacles point to.
    _texts: Vec<CString>,
}

impl From<Vec<Obstacle>> for vmm_obstacles {
    fn from(obstacles: Vec<Obstacle>) -> Self {
        let mut texts = Vec::new();
        let mut keep = |text: String| {
            let text = error::text(&text);
            let pointer = text.as_ptr();
            texts.push(text);
            pointer
        };
        let obstacle = |obstacle: Obstacle| {
            let text = keep(obstacle.to_string());
            let (kind, name) = match obstacle {
                Obstacle::Directory(path) => (vmm_obstacle_kind::Directory, path),
                Obstacle::Feature(name) => (vmm_obstacle_kind::Feature, name),
                Obstacle::Function(name) => (vmm_obstacle_kind::Function, name),
                Obstacle::Registers(bits) => (vmm_obstacle_kind::Registers, format!("{bits:#x}")),
                _ => (vmm_obstacle_kind::Other, String::new()),
            };
            vmm_obstacle { kind, name: keep(name), text }
        };
        Self { found: obstacles.into_iter().map(obstacle).collect(), _texts: texts }
    }
}

/// Fills `*obstacles` with what stands in the way of vmm_sandbox_new, with what was said so far;
/// the description can be changed and used afterwards. Of one that is no snapshot nothing does.
///
/// VMM_STATUS_SNAPSHOT and VMM_STATUS_INCOMPATIBLE if the file is no snapshot that this library
/// reads, VMM_STATUS_HOST if it cannot be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_check(
    config: *mut vmm_sandbox_config,
    obstacles: *mut *mut vmm_obstacles,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(obstacles, "obstacles", std::ptr::null_mut())?;
            let found = pass::object(config, "config")?.check()?;
            pass::fill(obstacles, "obstacles", pass::give(vmm_obstacles::from(found)))
        })
    }
}

/// How many there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_obstacles_size(obstacles: *const vmm_obstacles) -> usize {
    // SAFETY: the header's rules.
    unsafe { tell(obstacles, 0, |obstacles| obstacles.found.len()) }
}

/// Obstacle `n`, which lives as long as `obstacles`; NULL if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_obstacles_at(
    obstacles: *const vmm_obstacles,
    n: usize,
) -> *const vmm_obstacle {
    let none = std::ptr::null();
    // SAFETY: the header's rules.
    unsafe {
        tell(obstacles, none, |obstacles| obstacles.found.get(n).map_or(none, std::ptr::from_ref))
    }
}

/// Frees them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_obstacles_free(obstacles: *mut vmm_obstacles) {
    // SAFETY: the header's rules.
    unsafe { pass::free(obstacles) };
}
