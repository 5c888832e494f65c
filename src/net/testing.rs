//! Network namespaces and objects for tests.

use crate::Config;
use api::k8s::core::v1::Service;
use api::k8s::discovery::v1::EndpointSlice;
use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Whether this process may make network namespaces.
pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: not root");
    }
    root
}

/// Runs a command line, which must succeed.
pub fn sh(line: &str) -> String {
    let out = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A network namespace that is gone with this value.
pub struct Netns(pub String);

impl Netns {
    pub fn new(tag: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nt{}-{n}-{tag}", std::process::id());
        sh(&format!("ip netns add {name}; ip -n {name} link set lo up"));
        Self(name)
    }

    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// Runs on a thread of its own inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

pub fn config() -> Config {
    Config::new("one", "10.99.0.1".parse().unwrap(), "10.42.0.0/24".parse().unwrap())
}

pub fn service(json: serde_json::Value) -> Service {
    serde_json::from_value(json).unwrap()
}

pub fn slice(json: serde_json::Value) -> EndpointSlice {
    serde_json::from_value(json).unwrap()
}
