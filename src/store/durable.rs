//! [`DurableStore`]: the store on disk.
//!
//! Threads: `store-writer` (one, for the store's life) owns the commit machinery
//! and takes all pending writes at once, so that they share one `fdatasync`, and keeps
//! those that may wait until others come, or half a second has gone;
//! `store-checkpoint` (one at a time, while a checkpoint runs) makes the engine
//! durable. Reads run on the runtime's blocking threads. Input → output: a bounded
//! number of [`Request`]s → answers through one-shot channels, events through the hub.
//!
//! When nothing is written, no thread wakes and nothing goes to the disk.
//!
//! On disk, under the store's directory: `LOCK`, `CHECKPOINT`, `<revision>.log`
//! segments, and `state/`, which belongs to the engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::commit::{Core, Limits, Shared, Write};
use crate::disk::RealDisk;
use crate::engine::SledEngine;
use crate::manifest::Manifest;
use crate::memory::check_size;
use crate::ration::Ration;
use crate::record::{BATCH_BYTES, record_bytes};
use crate::{Error, Expect, KeyValue, RESTORE_ADVICE, Range, Revision, Store, Watch, io_error, lock, read};

/// How many writes may wait at a time; further ones wait to be let in.
const PENDING_WRITES: usize = 1024;
/// How much the engine may be behind the log: far less than the hub's ring holds.
const APPLY_BYTES: usize = 1 << 20;
const STATE: &str = "state";

/// How a [`DurableStore`] is kept. [`Options::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store's own directory; created when it does not exist.
    pub directory: PathBuf,
    /// How long a change can at least be watched from: 10 minutes.
    pub history_window: Duration,
    /// History is given up earlier than the window when it exceeds this: 128 MiB.
    pub history_bytes: u64,
    /// The size at which a log segment is followed by the next: 8 MiB.
    pub segment_bytes: u64,
    /// A checkpoint is made after this much log: 32 MiB.
    pub checkpoint_bytes: u64,
    /// A checkpoint is made this long after a change at the latest: 5 minutes.
    pub checkpoint_interval: Duration,
    /// Writes are refused when less than this is free on the disk: 64 MiB. What is
    /// already acknowledged may still need it.
    pub reserve_bytes: u64,
}

impl Options {
    /// The defaults, in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            history_window: Duration::from_secs(600),
            history_bytes: 128 << 20,
            segment_bytes: 8 << 20,
            checkpoint_bytes: 32 << 20,
            checkpoint_interval: Duration::from_secs(300),
            reserve_bytes: 64 << 20,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            history_window: self.history_window,
            history_bytes: self.history_bytes,
            segment_bytes: self.segment_bytes,
            checkpoint_bytes: self.checkpoint_bytes,
            checkpoint_interval: self.checkpoint_interval,
            reserve_bytes: self.reserve_bytes,
            apply_bytes: APPLY_BYTES,
        }
    }
}

/// The store on disk. See the module.
///
/// Dropping it stops it like a crash would, only tidier: nothing acknowledged is
/// lost, but the next start replays the log. [`Store::close`] makes a checkpoint.
pub struct DurableStore {
    shared: Arc<Shared>,
    requests: Mutex<Option<Sender<Request>>>,
    room: Arc<Semaphore>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// A write, and who waits for it.
struct Pending {
    write: Write,
    /// Whether it must not wait for others.
    hurried: bool,
    answer: oneshot::Sender<Result<Revision, Error>>,
    _permit: OwnedSemaphorePermit,
}

enum Request {
    Write(Pending),
    Compact(Revision, oneshot::Sender<Result<(), Error>>),
    Checkpointed(Result<Revision, Error>),
    Close(oneshot::Sender<Result<(), Error>>),
    Stop,
}

impl DurableStore {
    /// Opens or creates the store, recovering from whatever ended it last time.
    /// Blocks while it reads the log.
    pub fn open(options: Options) -> Result<Self, Error> {
        let directory = &options.directory;
        let failed = |action| move |error| io_error(action, directory.display().to_string(), error);
        fs::create_dir_all(directory).map_err(failed("create"))?;
        let guard = lock_directory(directory)?;
        let core = recover(&options)?;
        if let Some(parent) = directory.parent().filter(|parent| *parent != Path::new("")) {
            fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync"))?;
        }
        let shared = core.shared();
        let (requests, receiver) = channel();
        let writer = Writer {
            core,
            receiver,
            requests: requests.clone(),
            checkpoint: None,
            pending: Vec::new(),
            pending_bytes: 0,
            ration: Ration::default(),
            _guard: guard,
        };
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(failed("start the writer of"))?;
        Ok(Self {
            shared,
            requests: Mutex::new(Some(requests)),
            room: Arc::new(Semaphore::new(PENDING_WRITES)),
            writer: Mutex::new(Some(writer)),
        })
    }

    fn send(&self, request: Request) -> Result<(), Error> {
        let requests = lock(&self.requests);
        let sender = requests.as_ref().ok_or(Error::Closed)?;
        sender.send(request).map_err(|_| Error::Closed)
    }

    async fn write(&self, key: &str, value: Option<Bytes>, expect: Expect, hurried: bool) -> Result<Revision, Error> {
        check_size(key, value.as_ref())?;
        let permit = self.room.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let (answer, answered) = oneshot::channel();
        let write = Write { key: key.into(), value, expect };
        self.send(Request::Write(Pending { write, hurried, answer, _permit: permit }))?;
        answered.await.map_err(|_| Error::Closed)?
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || read(&shared)).await.map_err(|_| Error::Closed)?
    }
}

impl Drop for DurableStore {
    fn drop(&mut self) {
        if let Some(requests) = lock(&self.requests).take() {
            // The writer may have ended already; then there is nothing to stop.
            let _ = requests.send(Request::Stop);
        }
        self.shared.close();
        if let Some(writer) = lock(&self.writer).take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer had panicked");
        }
    }
}

#[async_trait]
impl Store for DurableStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let key = key.to_owned();
        self.read(move |shared| read::get(shared, &key)).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.read(move |shared| read::range(shared, &prefix, after.as_deref(), limit)).await
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Revision, Error> {
        self.write(key, Some(value), expect, true).await
    }

    async fn put_unhurried(&self, key: &str, value: Bytes, expect: Expect) -> Result<Revision, Error> {
        self.write(key, Some(value), expect, false).await
    }

    async fn delete_unhurried(&self, key: &str, expect: Expect) -> Result<Revision, Error> {
        self.write(key, None, expect, false).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<Revision, Error> {
        self.write(key, None, expect, true).await
    }

    async fn watch(&self, after: Revision) -> Result<Watch, Error> {
        self.shared.hub.watch(after)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.send(Request::Compact(revision, answer))?;
        answered.await.map_err(|_| Error::Closed)?
    }

    fn revision(&self) -> Revision {
        self.shared.revision.load(Ordering::Acquire)
    }

    async fn close(&self) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let sent = self.send(Request::Close(answer));
        lock(&self.requests).take();
        sent?;
        answered.await.map_err(|_| Error::Closed)?
    }
}

fn lock_directory(directory: &Path) -> Result<fs::File, Error> {
    let path = directory.join("LOCK");
    let failed = |action| {
        let path = path.display().to_string();
        move |error| io_error(action, path, error)
    };
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed("open"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::Locked(directory.display().to_string())),
        Err(fs::TryLockError::Error(error)) => Err(failed("lock")(error)),
    }
}

/// Opens log and engine. An engine that is damaged, or that lost what its last
/// checkpoint promised, is set aside and rebuilt when the log reaches back to the
/// beginning.
fn recover(options: &Options) -> Result<Core, Error> {
    let disk = Arc::new(RealDisk::new(&options.directory));
    let manifest = Manifest::read(&*disk)?;
    let state = options.directory.join(STATE);
    let damage = match SledEngine::open(&state) {
        Ok(engine) => match crate::engine::Engine::revision(&engine) {
            Ok(revision) if revision >= manifest.checkpoint => {
                let engine = Arc::new(engine);
                return Core::open(disk, engine, manifest, options.limits(), now_ms());
            }
            Ok(revision) => {
                format!("it ends at revision {revision}, but {} was made durable in it", manifest.checkpoint)
            }
            Err(error) => error.to_string(),
        },
        Err(Error::Corrupt { what, .. }) => what,
        Err(error) => return Err(error),
    };
    tracing::error!(state = %state.display(), damage, "the state is damaged; rebuilding it from the log");
    let aside = options.directory.join(format!("{STATE}.damaged-{}", now_ms()));
    let fresh = options.directory.join(format!("{STATE}.rebuilt"));
    let failed = |action, path: &Path| {
        let path = path.display().to_string();
        move |error| io_error(action, path, error)
    };
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(failed("remove", &fresh))?;
    }
    // Rebuilt beside the damaged one, which is moved only once this has succeeded.
    let engine = Arc::new(SledEngine::open(&fresh)?);
    let core =
        Core::open(disk.clone(), engine.clone(), manifest, options.limits(), now_ms()).map_err(
            |error| match error {
                Error::Corrupt { what, .. } => Error::Corrupt {
                    file: state.display().to_string(),
                    offset: 0,
                    what: format!("{damage}; it cannot be rebuilt, since {what}"),
                    advice: RESTORE_ADVICE.into(),
                },
                other => other,
            },
        )?;
    crate::engine::Engine::checkpoint(&*engine)?;
    drop((core, engine));
    fs::rename(&state, &aside).map_err(failed("rename", &state))?;
    fs::rename(&fresh, &state).map_err(failed("rename", &fresh))?;
    fs::File::open(&options.directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync", &options.directory))?;
    Core::open(disk, Arc::new(SledEngine::open(&state)?), manifest, options.limits(), now_ms())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The state of the `store-writer` thread.
struct Writer {
    core: Core,
    receiver: Receiver<Request>,
    requests: Sender<Request>,
    checkpoint: Option<JoinHandle<()>>,
    /// Writes that wait for others to share a sync with.
    pending: Vec<Pending>,
    pending_bytes: usize,
    ration: Ration,
    /// Holds the directory's lock until the thread is through.
    _guard: fs::File,
}

/// What the writer has to do next.
enum Next {
    Serve(Request),
    Commit,
    Checkpoint,
}

/// What a turn of the writer's loop asks for next.
enum Turn {
    Continue,
    Close(oneshot::Sender<Result<(), Error>>),
    Stop,
}

impl Writer {
    fn run(mut self) {
        let end = loop {
            match self.next() {
                Next::Checkpoint => self.start_checkpoint(),
                Next::Commit => self.commit_alone(),
                Next::Serve(request) => match self.turn(request) {
                    Turn::Continue => {}
                    end => break end,
                },
            }
        };
        self.core.shared().close();
        if let Some(checkpoint) = self.checkpoint.take() {
            // Its outcome is either superseded by the one below or not needed.
            let _ = checkpoint.join();
        }
        let Turn::Close(answer) = end else { return };
        let result = self.last_checkpoint();
        // The engine and the lock are free before the caller hears of it.
        drop(self);
        let _ = answer.send(result);
    }

    /// The next request, or what is due first.
    fn next(&self) -> Next {
        let checkpoint = self.core.deadline_ms().filter(|_| self.checkpoint.is_none());
        let checkpoint = checkpoint.map(|ms| (Duration::from_millis(ms.saturating_sub(now_ms())), Next::Checkpoint));
        let commit = (!self.pending.is_empty()).then(|| (self.ration.wait(Instant::now()), Next::Commit));
        let Some((wait, due)) = commit.into_iter().chain(checkpoint).min_by_key(|(wait, _)| *wait) else {
            return Next::Serve(self.receiver.recv().unwrap_or(Request::Stop));
        };
        if wait.is_zero() {
            return due;
        }
        match self.receiver.recv_timeout(wait) {
            Ok(request) => Next::Serve(request),
            Err(RecvTimeoutError::Timeout) => due,
            Err(RecvTimeoutError::Disconnected) => Next::Serve(Request::Stop),
        }
    }

    /// Commits what waited, with a sync of its own.
    fn commit_alone(&mut self) {
        self.ration.take(Instant::now());
        self.commit();
    }

    /// Commits all that is pending as one batch.
    fn commit(&mut self) {
        let (writes, answers): (Vec<Write>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().map(|p| (p.write, (p.answer, p._permit))).unzip();
        self.pending_bytes = 0;
        if writes.is_empty() {
            return;
        }
        let results = self.core.commit(&writes, now_ms());
        for ((answer, _permit), result) in answers.into_iter().zip(results) {
            // A caller that went away does not undo its write.
            let _ = answer.send(result);
        }
        self.core.apply();
    }

    /// Handles a request together with all writes that wait behind it.
    fn turn(&mut self, first: Request) -> Turn {
        let mut hurried = false;
        let mut next = Some(first);
        while let Some(Request::Write(pending)) = next {
            self.pending_bytes += record_bytes(&pending.write.key, pending.write.value.as_ref());
            hurried |= pending.hurried;
            self.pending.push(pending);
            if self.pending_bytes >= BATCH_BYTES {
                next = None;
                break;
            }
            next = self.receiver.try_recv().ok();
        }
        // What may wait does, unless something else is asked for, or it keeps others from being let in.
        let full = self.pending_bytes >= BATCH_BYTES || self.pending.len() >= PENDING_WRITES / 2;
        if hurried || full || next.is_some() {
            self.commit();
        }
        match next {
            None | Some(Request::Write(..)) => Turn::Continue,
            Some(Request::Compact(revision, answer)) => {
                let _ = answer.send(self.core.compact(revision));
                Turn::Continue
            }
            Some(Request::Checkpointed(reached)) => {
                if let Some(checkpoint) = self.checkpoint.take() {
                    let _ = checkpoint.join();
                }
                // A failure is logged and retried there; no caller waits for it.
                let _ = self.core.finish_checkpoint(reached, now_ms());
                Turn::Continue
            }
            Some(Request::Close(answer)) => Turn::Close(answer),
            Some(Request::Stop) => Turn::Stop,
        }
    }

    fn start_checkpoint(&mut self) {
        let Some(revision) = self.core.begin_checkpoint() else {
            return;
        };
        let (engine, requests) = (self.core.engine(), self.requests.clone());
        let spawned = thread::Builder::new().name("store-checkpoint".into()).spawn(move || {
            let reached = engine.checkpoint().map(|()| revision);
            drop(engine);
            // The writer outlives this thread: it joins it.
            let _ = requests.send(Request::Checkpointed(reached));
        });
        match spawned {
            Ok(handle) => self.checkpoint = Some(handle),
            Err(error) => {
                let error = io_error("checkpoint", STATE.into(), error);
                let _ = self.core.finish_checkpoint(Err(error), now_ms());
            }
        }
    }

    fn last_checkpoint(&mut self) -> Result<(), Error> {
        let Some(revision) = self.core.begin_checkpoint() else {
            return Ok(());
        };
        let reached = self.core.engine().checkpoint().map(|()| revision);
        self.core.finish_checkpoint(reached, now_ms())
    }
}

#[cfg(test)]
mod tests;
