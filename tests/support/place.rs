//! A directory and an address of a test's own.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Removed with everything in it when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    number: u32,
}

impl Place {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short: the paths of sockets lie in it.
        let path = std::env::temp_dir().join(format!("zt{}.{number}", std::process::id()));
        // Others may look, since services run as other users in some tests.
        std::fs::DirBuilder::new().mode(0o755).create(&path).expect("a directory can be made in the temporary one");
        Self { path, number }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// An IPv4 loopback address that no other test uses at this time: no port of it is ever taken.
    pub(crate) fn address(&self) -> String {
        let pid = std::process::id();
        // 4,194,304 process numbers at most: 22 bits, and 200 tests each; 127.0.0.x stays free.
        let [_, high, middle, low] = (pid.wrapping_mul(251).wrapping_add(self.number) % 0x00FF_FF00).to_be_bytes();
        format!("127.{}.{middle}.{low}", high.max(1))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed lies in the temporary directory, under a name of its own.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
