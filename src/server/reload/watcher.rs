//! Noticing that a file may have changed: its folder is watched, and it is looked at from time to time.
//!
//! Owns the watch on the folder and the comparison of the file's outer marks. Never reads the file.
//! What surprises: the folder is watched and not the file. A mounted ConfigMap is replaced by turning
//! round the link `..data` beside the file; a watch on the file hears of the first such turn and of no
//! other.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use crate::events;

/// What looks after one file.
#[derive(Debug)]
pub(super) struct Watcher {
    path: PathBuf,
    /// Rung when something has happened in the folder.
    hint: Arc<Notify>,
    /// `None`: the folder cannot be watched.
    watch: Option<RecommendedWatcher>,
    /// Which folder that was: another may stand in its place by now.
    folder: Option<Mark>,
    /// What the file looked like.
    seen: Option<Mark>,
}

/// What changes when a file is written or replaced: device, number, length, and two times.
type Mark = (u64, u64, u64, i64, i64);

// === impl Watcher ===

impl Watcher {
    /// Watches the folder of `path`, and rings `hint`.
    #[must_use]
    pub(super) fn new(path: &Path, hint: Arc<Notify>) -> Self {
        let (watch, folder, seen) = (None, None, None);
        let mut watcher = Self { path: path.to_owned(), hint, watch, folder, seen };
        watcher.refresh();
        watcher.has_changed();
        watcher
    }

    /// Whether the file looks different from the last time that this was asked.
    pub(super) fn has_changed(&mut self) -> bool {
        let mark = mark(&self.path);
        std::mem::replace(&mut self.seen, mark) != mark
    }

    /// Watches again if the folder is another one than before, or could not be watched.
    pub(super) fn refresh(&mut self) {
        let folder = self.folder();
        // Its times change with every file in it; which one it is does not.
        let identity = mark(folder).map(|(device, number, ..)| (device, number, 0, 0, 0));
        if self.watch.is_some() && identity == self.folder {
            return;
        }
        let result = watched(folder, Arc::clone(&self.hint));
        if let Err(error) = &result {
            events::policy_not_watched(&folder.display(), error);
        }
        (self.watch, self.folder) = (result.ok(), identity);
    }

    fn folder(&self) -> &Path {
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.unwrap_or(Path::new("."))
    }
}

fn watched(folder: &Path, hint: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error may mean that events were lost, so it is a hint as well.
        if event.is_ok_and(|event| is_reading(event.kind)) {
            return;
        }
        hint.notify_one();
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Whether that is how reading looks. Our own must not ring, or we would read for ever.
fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}

/// What a path leads to looks like, links followed.
fn mark(path: &Path) -> Option<Mark> {
    let it = std::fs::metadata(path).ok()?;
    Some((
        it.dev(),
        it.ino(),
        it.size(),
        it.mtime_nsec() ^ it.mtime().rotate_left(32),
        it.ctime_nsec(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::scratch::Folder;

    #[test]
    fn a_file_that_is_written_or_replaced_looks_different_and_one_that_is_read_does_not() {
        let folder = Folder::new();
        let file = folder.write("policy.toml", "a");
        let mut watcher = Watcher::new(&file, Arc::default());
        assert!(!watcher.has_changed());
        std::fs::read(&file).unwrap();
        assert!(!watcher.has_changed());
        let other = folder.write("other.toml", "a");
        std::fs::rename(other, &file).unwrap();
        assert!(watcher.has_changed() && !watcher.has_changed());
        std::fs::remove_file(&file).unwrap();
        assert!(watcher.has_changed());
    }

    #[tokio::test]
    async fn each_turn_of_the_link_beside_the_file_rings() {
        let folder = Folder::new();
        for name in ["a", "b"] {
            std::fs::create_dir(folder.path(name)).unwrap();
            std::fs::write(folder.path(name).join("policy.toml"), name).unwrap();
        }
        std::os::unix::fs::symlink("a", folder.path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/policy.toml", folder.path("policy.toml")).unwrap();
        let hint = Arc::new(Notify::new());
        let mut watcher = Watcher::new(&folder.path("policy.toml"), Arc::clone(&hint));
        for name in ["b", "a", "b"] {
            std::os::unix::fs::symlink(name, folder.path("..tmp")).unwrap();
            std::fs::rename(folder.path("..tmp"), folder.path("..data")).unwrap();
            let patience = std::time::Duration::from_secs(30);
            tokio::time::timeout(patience, hint.notified()).await.expect("it rings");
            assert!(watcher.has_changed());
        }
    }
}
