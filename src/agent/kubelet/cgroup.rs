//! The pods' cgroups, version 1 and 2:
//! `<parent>/kubepods/{,burstable,besteffort}/pod<uid>`, with the pod's limits.
//! The runtime puts each container's cgroup below its pod's.
//!
//! Upstream: `pkg/kubelet/cm/{qos_container_manager,pod_container_manager}_linux.go`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use api::k8s::core::v1::Pod;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::resources::{self, Qos};

/// Controllers of version 1 in which pods get a group. The runtime makes the others.
const V1: [&str; 4] = ["cpu", "memory", "pids", "cpuset"];

#[derive(Clone, Debug)]
enum Hierarchy {
    /// Controller name and its mount point.
    V1(Vec<(String, PathBuf)>),
    V2(PathBuf),
}

/// The cgroup tree as far as pods are concerned.
#[derive(Clone, Debug)]
pub struct Cgroups {
    hierarchy: Hierarchy,
    /// The version 2 that hybrid machines mount beside version 1; runtimes make groups there, too.
    unified: Option<PathBuf>,
    /// `/kubepods` below the parent, with a leading slash.
    root: String,
}

fn write(path: &Path, value: &str) {
    if let Err(e) = std::fs::write(path, value) {
        tracing::debug!(file = %path.display(), value, error = %e, "cgroup setting not applied");
    }
}

/// `cpu.weight` for `cpu.shares`, as runc computes it.
fn weight(shares: u64) -> u64 {
    1 + (shares.saturating_sub(2) * 9999) / 262_142
}

impl Cgroups {
    /// Looks at what is mounted. `parent` is the group below which ours goes.
    pub fn detect(parent: &str) -> Cgroups {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut v1 = Vec::new();
        let mut v2 = None;
        for line in text.lines() {
            let Some((head, tail)) = line.split_once(" - ") else { continue };
            let Some(point) = head.split(' ').nth(4) else { continue };
            let mut tail = tail.split(' ');
            match tail.next() {
                Some("cgroup") => {
                    for option in tail.nth(1).unwrap_or_default().split(',') {
                        // Named hierarchies (systemd's) have no controller, but runtimes make groups there, too.
                        let option = option.strip_prefix("name=").unwrap_or(option);
                        if !matches!(option, "rw" | "ro" | "none" | "xattr" | "") && !option.contains('=') {
                            v1.push((option.to_owned(), PathBuf::from(point)));
                        }
                    }
                }
                Some("cgroup2") => v2 = Some(PathBuf::from(point)),
                _ => {}
            }
        }
        let (hierarchy, unified) = match v2 {
            Some(point) if v1.is_empty() => (Hierarchy::V2(point), None),
            other => (Hierarchy::V1(v1), other),
        };
        Cgroups { hierarchy, unified, root: format!("/{}/kubepods", parent.trim_matches('/')).replace("//", "/") }
    }

    /// Whether this is version 2.
    pub fn is_v2(&self) -> bool {
        matches!(self.hierarchy, Hierarchy::V2(_))
    }

    fn mounts(&self) -> Vec<(&str, &Path)> {
        match &self.hierarchy {
            Hierarchy::V1(all) => {
                let unified = self.unified.iter().map(|p| ("", p.as_path()));
                all.iter().map(|(n, p)| (n.as_str(), p.as_path())).chain(unified).collect()
            }
            Hierarchy::V2(p) => vec![("", p.as_path())],
        }
    }

    fn folder(&self, mount: &Path, group: &str) -> PathBuf {
        mount.join(group.trim_start_matches('/'))
    }

    /// The cgroup parent of a pod's containers.
    pub fn pod(&self, uid: &str, qos: Qos) -> String {
        match qos {
            Qos::Guaranteed => format!("{}/pod{uid}", self.root),
            Qos::Burstable => format!("{}/burstable/pod{uid}", self.root),
            Qos::BestEffort => format!("{}/besteffort/pod{uid}", self.root),
        }
    }

    /// Makes a group and everything above it.
    fn make(&self, group: &str) -> std::io::Result<()> {
        match &self.hierarchy {
            Hierarchy::V1(all) => {
                for (controller, mount) in all.iter().filter(|(n, _)| V1.contains(&n.as_str())) {
                    let mut at = mount.clone();
                    for part in group.split('/').filter(|p| !p.is_empty()) {
                        let above = at.clone();
                        at.push(part);
                        if !at.exists() {
                            std::fs::create_dir(&at)?;
                        }
                        if controller == "cpuset" {
                            // A new cpuset is empty, and nothing can run in it.
                            for file in ["cpuset.cpus", "cpuset.mems"] {
                                let own = std::fs::read_to_string(at.join(file)).unwrap_or_default();
                                if own.trim().is_empty() {
                                    let from = std::fs::read_to_string(above.join(file)).unwrap_or_default();
                                    write(&at.join(file), from.trim());
                                }
                            }
                        }
                    }
                }
            }
            Hierarchy::V2(mount) => {
                let mut at = mount.clone();
                for part in group.split('/').filter(|p| !p.is_empty()) {
                    for controller in ["+cpu", "+cpuset", "+memory", "+pids", "+io", "+hugetlb"] {
                        write(&at.join("cgroup.subtree_control"), controller);
                    }
                    at.push(part);
                    if !at.exists() {
                        std::fs::create_dir(&at)?;
                    }
                }
                for controller in ["+cpu", "+cpuset", "+memory", "+pids", "+io", "+hugetlb"] {
                    write(&at.join("cgroup.subtree_control"), controller);
                }
            }
        }
        Ok(())
    }

    fn set(&self, controller: &str, group: &str, file: &str, value: &str) {
        let mount = match &self.hierarchy {
            Hierarchy::V1(all) => all.iter().find(|(n, _)| n == controller).map(|(_, p)| p),
            Hierarchy::V2(p) => Some(p),
        };
        if let Some(mount) = mount {
            write(&self.folder(mount, group).join(file), value);
        }
    }

    fn set_shares(&self, group: &str, shares: u64) {
        if self.is_v2() {
            self.set("cpu", group, "cpu.weight", &weight(shares).to_string());
        } else {
            self.set("cpu", group, "cpu.shares", &shares.to_string());
        }
    }

    /// Makes the groups above the pods.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn prepare(&self) -> std::io::Result<()> {
        for class in ["", "/burstable", "/besteffort"] {
            self.make(&format!("{}{class}", self.root))?;
        }
        self.set_shares(&format!("{}/besteffort", self.root), 2);
        Ok(())
    }

    /// Gives the burstable class the CPU weight of its pods' requests.
    pub fn set_burstable_cpu(&self, millis: i64) {
        self.set_shares(&format!("{}/burstable", self.root), resources::cpu_shares(millis));
    }

    /// Makes a pod's group, with the limits that hold for the pod as a whole, and gives its path.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create_pod(&self, pod: &Pod, uid: &str) -> std::io::Result<String> {
        let qos = resources::qos(pod);
        let group = self.pod(uid, qos);
        self.make(&group)?;
        let totals = resources::pod_totals(pod);
        if qos == Qos::BestEffort {
            self.set_shares(&group, 2);
            return Ok(group);
        }
        self.set_shares(&group, resources::cpu_shares(totals.requests.cpu_millis));
        if let Some(millis) = totals.cpu_limit_millis {
            let quota = resources::cpu_quota(millis);
            if self.is_v2() {
                self.set("cpu", &group, "cpu.max", &format!("{quota} 100000"));
            } else {
                self.set("cpu", &group, "cpu.cfs_period_us", "100000");
                self.set("cpu", &group, "cpu.cfs_quota_us", &quota.to_string());
            }
        }
        if let Some(bytes) = totals.memory_limit_bytes {
            let file = if self.is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
            self.set("memory", &group, file, &bytes.to_string());
        }
        Ok(group)
    }

    /// All groups at and below one, the deepest first.
    fn tree(dir: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                found.extend(Self::tree(&entry.path()));
            }
        }
        found.push(dir.to_owned());
        found
    }

    async fn remove_group(&self, group: &str) {
        for _ in 0..50 {
            let mut left = false;
            for (_, mount) in self.mounts() {
                let dir = self.folder(mount, group);
                if !dir.exists() {
                    continue;
                }
                for dir in Self::tree(&dir) {
                    for pid in pids(&std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default()) {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                    left |= std::fs::remove_dir(&dir).is_err();
                }
            }
            if !left {
                return;
            }
            // The kernel frees a group a moment after its last process.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tracing::warn!(group, "cgroup not removed");
    }

    /// Removes a pod's group, whatever its class, and kills what still runs in it.
    pub async fn remove_pod(&self, uid: &str) {
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            self.remove_group(&self.pod(uid, qos)).await;
        }
    }

    /// UIDs of the pods that have a group.
    pub fn pods(&self) -> Vec<String> {
        let mut uids = std::collections::BTreeSet::new();
        for (_, mount) in self.mounts() {
            for class in ["", "/burstable", "/besteffort"] {
                let dir = self.folder(mount, &format!("{}{class}", self.root));
                for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                    if let Some(uid) = entry.file_name().to_str().and_then(|n| n.strip_prefix("pod")) {
                        uids.insert(uid.to_owned());
                    }
                }
            }
        }
        uids.into_iter().collect()
    }

    /// Kills everything in all pods' groups and removes them.
    pub async fn kill_pods(&self) {
        for uid in self.pods() {
            self.remove_pod(&uid).await;
        }
    }

    /// Removes the whole tree, and the groups above it that nobody else uses.
    pub async fn remove_all(&self) {
        self.remove_group(&self.root).await;
        for (_, mount) in self.mounts() {
            let folder = self.folder(mount, &self.root);
            let above = folder.ancestors().skip(1).take_while(|d| *d != mount);
            // The kernel keeps a group that still has something in it.
            let _: Vec<_> = above.map(std::fs::remove_dir).take_while(Result::is_ok).collect();
        }
    }
}

/// The processes that a `cgroup.procs` names. Those of other process namespaces show as 0, which
/// as the target of a signal would be our own process group.
fn pids(text: &str) -> Vec<i32> {
    text.lines().filter_map(|l| l.parse().ok()).filter(|pid| *pid > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_other_namespaces_are_not_taken_for_our_own_group() {
        assert_eq!(pids("0\n12\n0\n7\n"), [12, 7]);
    }

    #[test]
    fn weights_follow_shares() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(262_144), 10_000);
    }
}
