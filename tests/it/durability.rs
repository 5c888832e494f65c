//! What was acknowledged is there after `kill -9`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::lab::Cluster;

#[test]
fn nothing_acknowledged_is_lost_when_the_server_is_killed_under_writers() {
    let mut c = Cluster::start();
    let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
    for round in 0..3 {
        let stop = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            let c = &c;
            for writer in 0..8 {
                let (acknowledged, stop) = (acknowledged.clone(), stop.clone());
                scope.spawn(move || {
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let name = format!("r{round}-w{writer}-{n}");
                        let body = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
                        if c.kubectl_with(&["create", "--validate=false", "-f", "-"], &body).status.success() {
                            acknowledged.lock().unwrap().push(name);
                        }
                    }
                });
            }
            crate::lab::eventually("some writes are acknowledged", || {
                acknowledged.lock().unwrap().len() >= 20 * (round + 1)
            });
            stop.store(true, Ordering::Relaxed);
            // The writers are in the middle of their last calls.
            kill_now(c);
        });
        c.kill();
        c.run();
        let there = c.kubectl(&["get", "cm", "-o", "jsonpath={.items[*].metadata.name}"]);
        let there: std::collections::BTreeSet<&str> = there.split_whitespace().collect();
        let lost: Vec<String> =
            acknowledged.lock().unwrap().iter().filter(|n| !there.contains(n.as_str())).cloned().collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }
}

/// Kills the server while its handle is borrowed by the writers.
fn kill_now(c: &Cluster) {
    let pid = nix::unistd::Pid::from_raw(c.pid() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}
