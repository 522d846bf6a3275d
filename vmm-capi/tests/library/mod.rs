//! Where the libraries are that this package makes.

use std::{env, path::PathBuf};

/// The directory that has them: this test's own.
pub(crate) fn directory() -> PathBuf {
    let test = env::current_exe().expect("this test's own path");
    test.parent().expect("the directory it is in").into()
}
