//! `/containerLogs`: a container's log, from its file; with `follow` until the container ends.

use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use axum::body::Body;
use bytes::Bytes;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};

use super::{Answer, Query, Server, text};
use crate::kubelet::logs::{parse, tail_offset};
use crate::kubelet::observed::{Observed, State};
use crate::kubelet::spec::identity;
use client::dirwatch::DirWatch;

/// Bytes sent at once.
const CHUNK: usize = 32 << 10;
/// How long a runtime may keep writing to a file that it was told to leave.
const LAST_WRITES: Duration = Duration::from_secs(1);

struct Options {
    since: Option<Timestamp>,
    timestamps: bool,
    follow: bool,
    tail: Option<usize>,
    left: Option<usize>,
    stdout: bool,
    stderr: bool,
}

impl Options {
    fn of(query: &Query) -> Result<Options, Status> {
        let since = match (query.number("sinceSeconds")?, query.get("sinceTime")) {
            (Some(_), Some(_)) => {
                return Err(Status::bad_request("at most one of sinceTime or sinceSeconds may be specified"));
            }
            (Some(s), None) => Some(Timestamp::now() - SignedDuration::from_secs(s)),
            (None, Some(t)) => Some(t.parse().map_err(|e| Status::bad_request(format!("sinceTime: {e}")))?),
            (None, None) => None,
        };
        let stream = query.get("stream").unwrap_or("All");
        if !matches!(stream, "All" | "Stdout" | "Stderr") {
            return Err(Status::bad_request(format!("invalid stream {stream:?}")));
        }
        let size = |n: Option<i64>| n.and_then(|n| usize::try_from(n).ok());
        Ok(Options {
            since,
            timestamps: query.flag("timestamps"),
            follow: query.flag("follow"),
            tail: size(query.number("tailLines")?),
            left: size(query.number("limitBytes")?),
            stdout: stream != "Stderr",
            stderr: stream != "Stdout",
        })
    }

    /// Adds a line to `out`, if it is wanted.
    fn take(&self, line: &[u8], out: &mut Vec<u8>, continued: &mut bool) {
        let Some(l) = parse(line) else { return };
        if (l.stderr && !self.stderr) || (!l.stderr && !self.stdout) {
            return;
        }
        if let Some(since) = self.since
            && l.time.parse::<Timestamp>().is_ok_and(|t| t < since)
        {
            return;
        }
        if self.timestamps && !*continued {
            out.extend_from_slice(l.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(l.text);
        if !l.partial {
            out.push(b'\n');
        }
        *continued = l.partial;
    }
}

impl Server {
    pub(super) async fn logs(&self, namespace: &str, name: &str, container: &str, query: &Query) -> Answer {
        let options = Options::of(query)?;
        let (pod, seen) = self
            .pods
            .find(namespace, name)
            .ok_or_else(|| Status::new(404, "NotFound", format!("pod {name:?} does not exist")))?;
        let spec = pod.spec.clone().unwrap_or_default();
        let is_there = spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|c| c.name == container)
            || spec.ephemeral_containers.iter().flatten().any(|c| c.name == container);
        if !is_there {
            let message = format!("container {container:?} is not valid for pod {name:?}");
            return Err(Status::new(404, "NotFound", message));
        }
        let mut all = seen.named(container).filter(|c| c.state != State::Created);
        let chosen = if query.flag("previous") {
            let latest = seen.latest(container);
            all.find(|c| c.state == State::Exited && Some(&c.id) != latest.map(|l| &l.id)).ok_or_else(|| {
                Status::bad_request(format!("previous terminated container {container:?} in pod {name:?} not found"))
            })?
        } else {
            all.next().ok_or_else(|| {
                let uid = identity(&pod).uid;
                let why = self.shared.statuses.get(&uid).and_then(|s| {
                    let all = s
                        .container_statuses
                        .into_iter()
                        .flatten()
                        .chain(s.init_container_statuses.into_iter().flatten());
                    all.into_iter().find(|c| c.name == container)?.state?.waiting?.reason
                });
                let why = why.unwrap_or_else(|| "ContainerCreating".into());
                Status::bad_request(format!("container {container:?} in pod {name:?} is waiting to start: {why}"))
            })?
        };
        let path = PathBuf::from(&chosen.log_path);
        let (id, uid) = (chosen.id.clone(), identity(&pod).uid);
        let state = self.pods.follow(&uid);
        let (tx, rx) = mpsc::channel::<Result<Bytes, std::io::Error>>(8);
        let cancel = self.shared.cancel.clone();
        self.shared.tasks.spawn(async move {
            let reader = Reader { path, id, options, sender: tx };
            let _ = cancel.run_until_cancelled(reader.run(state)).await;
        });
        let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(rx));
        Ok(text(StatusCode::OK, "text/plain", body))
    }
}

struct Reader {
    path: PathBuf,
    id: String,
    options: Options,
    sender: mpsc::Sender<Result<Bytes, std::io::Error>>,
}

fn open(path: &Path) -> std::io::Result<(BufReader<std::fs::File>, u64)> {
    let file = std::fs::File::open(path)?;
    let inode = file.metadata()?.ino();
    Ok((BufReader::new(file), inode))
}

impl Reader {
    async fn run(mut self, state: Option<watch::Receiver<Arc<Observed>>>) {
        if let Err(e) = self.copy(state).await {
            let _ = self.sender.send(Err(e)).await;
        }
    }

    /// Whether the container's process has ended.
    fn ended(&self, state: Option<&mut watch::Receiver<Arc<Observed>>>) -> bool {
        let Some(state) = state else { return true };
        let seen = state.borrow_and_update();
        seen.containers.iter().find(|c| c.id == self.id).is_none_or(|c| c.state == State::Exited)
    }

    async fn send(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(left) = &mut self.options.left {
            out.truncate(*left);
            *left -= out.len();
        }
        let open = out.is_empty() || self.sender.send(Ok(Bytes::from(std::mem::take(out)))).await.is_ok();
        open && self.options.left != Some(0)
    }

    async fn copy(&mut self, mut state: Option<watch::Receiver<Arc<Observed>>>) -> std::io::Result<()> {
        let dir = self.path.parent().map(Path::to_owned).unwrap_or_default();
        // Watched before it is read, so that no write is missed.
        let mut writes = if self.options.follow { Some(DirWatch::with_writes(&dir)?) } else { None };
        let (mut file, mut inode) = open(&self.path)?;
        let mut writers = DirWatch::of_writers(file.get_ref())?;
        if let Some(lines) = self.options.tail {
            let at = tail_offset(file.get_mut(), lines)?;
            file.seek(SeekFrom::Start(at))?;
        }
        let (mut line, mut out, mut continued) = (Vec::new(), Vec::new(), false);
        loop {
            // Asked before the file is read to its end: what was written until then is read.
            let ended = self.ended(state.as_mut());
            let rotated = writes.is_some() && std::fs::metadata(&self.path).is_ok_and(|m| m.ino() != inode);
            if rotated {
                // The rest goes to a new file; this one is whole when its writer has closed it.
                let _ = tokio::time::timeout(LAST_WRITES, writers.changed()).await;
            }
            loop {
                let n = file.read_until(b'\n', &mut line)?;
                if n == 0 || !line.ends_with(b"\n") {
                    break;
                }
                line.pop();
                self.options.take(&line, &mut out, &mut continued);
                line.clear();
                if out.len() >= CHUNK && !self.send(&mut out).await {
                    return Ok(());
                }
            }
            if !self.send(&mut out).await {
                return Ok(());
            }
            let Some(writes) = &mut writes else { return Ok(()) };
            if rotated {
                (file, inode) = open(&self.path)?;
                writers = DirWatch::of_writers(file.get_ref())?;
                line.clear();
                continue;
            }
            if ended {
                return Ok(());
            }
            let changed = async {
                match &mut state {
                    Some(s) => s.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.sender.closed() => return Ok(()),
                r = writes.changed() => {
                    r?;
                }
                open = changed => if !open {
                    state = None;
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::observed::Container;
    use std::io::Write;

    #[tokio::test]
    async fn a_followed_log_loses_nothing_when_it_is_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |n: u32| format!("2026-01-01T00:00:00Z stdout F {n}\n");
        let mut old = std::fs::File::create(&path).unwrap();
        old.write_all(line(1).as_bytes()).unwrap();
        let running = Container { id: "c".into(), state: State::Running, ..Default::default() };
        let seen = Arc::new(Observed { containers: vec![running], ..Default::default() });
        let (_running, state) = watch::channel(seen);
        let query = Query::parse("follow=true");
        let (sender, mut lines) = mpsc::channel(8);
        let reader = Reader { path: path.clone(), id: "c".into(), options: Options::of(&query).unwrap(), sender };
        tokio::spawn(reader.run(Some(state)));
        let mut got = Vec::new();
        let mut read_to = async |end: &str| {
            while !String::from_utf8_lossy(&got).ends_with(end) {
                got.extend_from_slice(&lines.recv().await.unwrap().unwrap());
            }
        };
        read_to("1\n").await;
        std::fs::rename(&path, dir.path().join("0.log.old")).unwrap();
        let mut new = std::fs::File::create(&path).unwrap();
        new.write_all(line(3).as_bytes()).unwrap();
        // The runtime has opened the new file and still has a line for the old one.
        tokio::time::sleep(Duration::from_millis(20)).await;
        old.write_all(line(2).as_bytes()).unwrap();
        drop(old);
        read_to("3\n").await;
        assert_eq!(String::from_utf8_lossy(&got), "1\n2\n3\n");
    }
}
