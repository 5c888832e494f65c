//! From a pod's spec to what the runtime is told: sandbox and container configurations. Pure.
//!
//! Upstream: `pkg/kubelet/kuberuntime/{kuberuntime_sandbox,kuberuntime_container,security_context}*.go`.

use std::collections::HashMap;

use api::k8s::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};
use api::meta::util::intstr::IntOrString;

use super::actions::{self, Role};
use super::cri::v1;
use super::observed::{
    CONTAINER_NAME, GRACE, HASH, MESSAGE_PATH, MESSAGE_POLICY, POD_NAME, POD_NAMESPACE, POD_UID, RESTARTS,
};
use super::resources;

/// Annotations of our own on sandboxes.
pub const SOURCE: &str = "kubernetes.io/config.source";

/// The parts of a pod's identity, never missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// Reads them.
pub fn identity(pod: &Pod) -> Identity {
    Identity {
        namespace: pod.metadata.namespace.clone().unwrap_or_else(|| "default".into()),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
    }
}

/// A pod's grace period, in seconds.
pub fn grace_seconds(pod: &Pod) -> i64 {
    let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    pod.metadata.deletion_grace_period_seconds.unwrap_or(own).max(0)
}

fn security(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref()?.security_context.as_ref()
}

/// Whether a container is privileged.
pub fn is_privileged(c: &Container) -> bool {
    c.security_context.as_ref().and_then(|s| s.privileged) == Some(true)
}

/// A named or numbered port of a container.
pub fn port(c: &Container, p: &IntOrString) -> Option<u16> {
    match p {
        IntOrString::Int(n) => u16::try_from(*n).ok().filter(|n| *n > 0),
        IntOrString::String(name) => c
            .ports
            .iter()
            .flatten()
            .find(|cp| cp.name.as_deref() == Some(name))
            .and_then(|cp| u16::try_from(cp.container_port).ok())
            .or_else(|| name.parse().ok()),
    }
}

fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
}

fn labels(id: &Identity) -> HashMap<String, String> {
    [(POD_NAME, &id.name), (POD_NAMESPACE, &id.namespace), (POD_UID, &id.uid)]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.clone()))
        .collect()
}

fn namespaces(pod: &Pod, shared_pid: bool) -> v1::NamespaceOption {
    let spec = pod.spec.as_ref();
    let host = |on: Option<bool>| if on == Some(true) { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod };
    let pid = match (spec.and_then(|s| s.host_pid), shared_pid) {
        (Some(true), _) => v1::NamespaceMode::Node,
        (_, true) => v1::NamespaceMode::Pod,
        _ => v1::NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: host(spec.and_then(|s| s.host_network)) as i32,
        ipc: host(spec.and_then(|s| s.host_ipc)) as i32,
        pid: pid as i32,
        ..Default::default()
    }
}

fn shares_pid(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.share_process_namespace) == Some(true)
}

fn seccomp(profile: Option<&SeccompProfile>, folder: &std::path::Path, privileged: bool) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, path) = match profile.map(|p| p.type_.as_str()) {
        _ if privileged => (ProfileType::Unconfined, String::new()),
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let file = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
            (ProfileType::Localhost, folder.join(file).to_string_lossy().into_owned())
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref: path }
}

/// Only what is asked for: a runtime without AppArmor answers that with an error of its own.
fn apparmor(profile: Option<&api::k8s::core::v1::AppArmorProfile>) -> Option<v1::SecurityProfile> {
    use v1::security_profile::ProfileType;
    let p = profile?;
    let kind = match p.type_.as_str() {
        "Unconfined" => ProfileType::Unconfined,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::RuntimeDefault,
    };
    let localhost_ref = p.localhost_profile.clone().unwrap_or_default();
    Some(v1::SecurityProfile { profile_type: kind as i32, localhost_ref })
}

fn selinux(options: Option<&api::k8s::core::v1::SELinuxOptions>) -> Option<v1::SeLinuxOption> {
    let o = options?;
    Some(v1::SeLinuxOption {
        user: o.user.clone().unwrap_or_default(),
        role: o.role.clone().unwrap_or_default(),
        r#type: o.type_.clone().unwrap_or_default(),
        level: o.level.clone().unwrap_or_default(),
    })
}

fn int(value: Option<i64>) -> Option<v1::Int64Value> {
    value.map(|value| v1::Int64Value { value })
}

fn groups(pod: &Pod) -> (Vec<i64>, i32) {
    let Some(s) = security(pod) else { return (Vec::new(), 0) };
    let mut all = s.supplemental_groups.clone().unwrap_or_default();
    all.extend(s.fs_group);
    let policy = match s.supplemental_groups_policy.as_deref() {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict,
        _ => v1::SupplementalGroupsPolicy::Merge,
    };
    (all, policy as i32)
}

/// What [`sandbox`] needs besides the pod.
#[derive(Clone, Debug)]
pub struct SandboxInput<'a> {
    /// How many sandboxes the pod had before.
    pub attempt: u32,
    /// The pod's resolvers.
    pub dns: v1::DnsConfig,
    /// The pod's host name; ignored on the host's network.
    pub hostname: &'a str,
    /// The pod's log folder.
    pub logs: &'a std::path::Path,
    /// The pod's cgroup.
    pub cgroup: &'a str,
    /// Where Localhost seccomp profiles are.
    pub seccomp: &'a std::path::Path,
}

/// The sandbox' configuration.
pub fn sandbox(pod: &Pod, input: &SandboxInput<'_>) -> v1::PodSandboxConfig {
    let id = identity(pod);
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network) == Some(true);
    let mut ports = Vec::new();
    if !host_network {
        for p in all_containers(pod).flat_map(|c| c.ports.iter().flatten()) {
            let Some(host_port) = p.host_port.filter(|h| *h > 0) else { continue };
            let protocol = match p.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            };
            ports.push(v1::PortMapping {
                protocol: protocol as i32,
                container_port: p.container_port,
                host_port,
                host_ip: p.host_ip.clone().unwrap_or_default(),
            });
        }
    }
    let mut labels_ = labels(&id);
    labels_.extend(pod.metadata.labels.clone().unwrap_or_default());
    let mut annotations: HashMap<String, String> =
        pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
    annotations.insert(GRACE.to_owned(), grace_seconds(pod).to_string());
    let s = security(pod);
    let privileged = all_containers(pod).any(is_privileged);
    let (supplemental_groups, supplemental_groups_policy) = groups(pod);
    let sysctls = s
        .and_then(|s| s.sysctls.as_ref())
        .map(|list| list.iter().map(|c| (c.name.clone(), c.value.clone())).collect())
        .unwrap_or_default();
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: id.name.clone(),
            uid: id.uid.clone(),
            namespace: id.namespace.clone(),
            attempt: input.attempt,
        }),
        hostname: if host_network { String::new() } else { input.hostname.to_owned() },
        log_directory: input.logs.to_string_lossy().into_owned(),
        dns_config: Some(input.dns.clone()),
        port_mappings: ports,
        labels: labels_,
        annotations,
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: input.cgroup.to_owned(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod, shares_pid(pod))),
                selinux_options: selinux(s.and_then(|s| s.se_linux_options.as_ref())),
                run_as_user: int(s.and_then(|s| s.run_as_user)),
                run_as_group: int(s.and_then(|s| s.run_as_user.and(s.run_as_group))),
                supplemental_groups,
                supplemental_groups_policy,
                privileged,
                seccomp: Some(v1::SecurityProfile {
                    profile_type: v1::security_profile::ProfileType::RuntimeDefault as i32,
                    localhost_ref: String::new(),
                }),
                ..Default::default()
            }),
            sysctls,
            ..Default::default()
        }),
        windows: None,
    }
}

/// What [`container`] needs besides the pod's and the container's spec.
#[derive(Clone, Debug)]
pub struct ContainerInput<'a> {
    /// Its role.
    pub role: Role,
    /// How often containers of this name were started before.
    pub restarts: u32,
    /// The image's reference, as the runtime knows it.
    pub image: String,
    /// Environment, expanded.
    pub env: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<v1::Mount>,
    /// Devices.
    pub devices: Vec<v1::Device>,
    /// Whether the machine has cgroup version 2.
    pub cgroup_v2: bool,
    /// The node's memory, for the OOM score.
    pub memory_capacity: i64,
    /// Where Localhost seccomp profiles are.
    pub seccomp: &'a std::path::Path,
    /// The container whose processes an ephemeral container shares.
    pub target: Option<String>,
}

fn expanded(list: Option<&Vec<String>>, env: &[(String, String)]) -> Vec<String> {
    let find = |n: &str| env.iter().find(|(k, _)| k == n).map(|(_, v)| v.clone());
    list.into_iter().flatten().map(|a| super::env::expand(a, find)).collect()
}

/// A container's resource settings.
pub fn linux_resources(pod: &Pod, c: &Container, memory_capacity: i64, cgroup_v2: bool) -> v1::LinuxContainerResources {
    let r = c.resources.as_ref();
    let pick = |m: Option<&std::collections::BTreeMap<String, api::meta::api::resource::Quantity>>, n: &str| {
        m.and_then(|m| m.get(n)).cloned()
    };
    let limits = r.and_then(|r| r.limits.as_ref());
    let requests = r.and_then(|r| r.requests.as_ref());
    let cpu_limit = pick(limits, "cpu").map(|q| resources::cpu_millis(&q)).unwrap_or(0);
    let cpu_request = pick(requests, "cpu").map(|q| resources::cpu_millis(&q)).unwrap_or(cpu_limit);
    let mut out = v1::LinuxContainerResources {
        cpu_shares: i64::try_from(resources::cpu_shares(cpu_request)).unwrap_or(2),
        memory_limit_in_bytes: pick(limits, "memory").map(|q| resources::value(&q)).unwrap_or(0),
        oom_score_adj: resources::oom_score_adj(pod, c, memory_capacity),
        ..Default::default()
    };
    if cpu_limit > 0 {
        out.cpu_period = 100_000;
        out.cpu_quota = resources::cpu_quota(cpu_limit);
    }
    for (name, q) in limits.into_iter().flatten() {
        if let Some(size) = name.strip_prefix("hugepages-") {
            let page_size = size.replace("Mi", "MB").replace("Gi", "GB").replace("Ki", "KB");
            let limit = u64::try_from(resources::value(q)).unwrap_or(0);
            out.hugepage_limits.push(v1::HugepageLimit { page_size, limit });
        }
    }
    if cgroup_v2 {
        // All processes of a container die together, as upstream's singleProcessOOMKill=false.
        out.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    out
}

/// A container's configuration.
pub fn container(pod: &Pod, c: &Container, input: ContainerInput<'_>) -> v1::ContainerConfig {
    let id = identity(pod);
    let of_pod = security(pod);
    let empty = SecurityContext::default();
    let own = c.security_context.as_ref().unwrap_or(&empty);
    let privileged = is_privileged(c);
    let (supplemental_groups, supplemental_groups_policy) = groups(pod);
    let mut namespaces = namespaces(pod, shares_pid(pod));
    if let Some(target) = &input.target {
        namespaces.pid = v1::NamespaceMode::Target as i32;
        namespaces.target_id = target.clone();
    }
    let capabilities = own.capabilities.as_ref().map(|caps| v1::Capability {
        add_capabilities: caps.add.clone().unwrap_or_default(),
        drop_capabilities: caps.drop.clone().unwrap_or_default(),
        ..Default::default()
    });
    let (masked_paths, readonly_paths) = if own.proc_mount.as_deref() == Some("Unmasked") || privileged {
        (Vec::new(), Vec::new())
    } else {
        let owned = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        (
            owned(&[
                "/proc/asound",
                "/proc/acpi",
                "/proc/interrupts",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/sys/firmware",
                "/sys/devices/virtual/powercap",
            ]),
            owned(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
        )
    };
    let profile = own.seccomp_profile.as_ref().or_else(|| of_pod.and_then(|s| s.seccomp_profile.as_ref()));
    let security_context = v1::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces),
        selinux_options: selinux(
            own.se_linux_options.as_ref().or_else(|| of_pod.and_then(|s| s.se_linux_options.as_ref())),
        ),
        run_as_user: int(own.run_as_user.or_else(|| of_pod.and_then(|s| s.run_as_user))),
        run_as_group: int(own.run_as_group.or_else(|| of_pod.and_then(|s| s.run_as_group))),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups,
        supplemental_groups_policy,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths,
        readonly_paths,
        seccomp: Some(seccomp(profile, input.seccomp, privileged)),
        apparmor: apparmor(
            own.app_armor_profile.as_ref().or_else(|| of_pod.and_then(|s| s.app_armor_profile.as_ref())),
        ),
        ..Default::default()
    };
    let mut labels = labels(&id);
    labels.insert(CONTAINER_NAME.to_owned(), c.name.clone());
    let policy = c.termination_message_policy.clone().unwrap_or_else(|| "File".into());
    let annotations = HashMap::from([
        (HASH.to_owned(), actions::hash(c)),
        (RESTARTS.to_owned(), input.restarts.to_string()),
        (MESSAGE_PATH.to_owned(), message_path(c).to_owned()),
        (MESSAGE_POLICY.to_owned(), policy),
        (GRACE.to_owned(), grace_seconds(pod).to_string()),
    ]);
    let linux_resources = linux_resources(pod, c, input.memory_capacity, input.cgroup_v2);
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: c.name.clone(), attempt: input.restarts }),
        image: Some(v1::ImageSpec {
            image: input.image,
            user_specified_image: c.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(c.command.as_ref(), &input.env),
        args: expanded(c.args.as_ref(), &input.env),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        envs: input.env.into_iter().map(|(key, value)| v1::KeyValue { key, value }).collect(),
        mounts: input.mounts,
        devices: input.devices,
        labels,
        annotations,
        log_path: format!("{}/{}.log", c.name, input.restarts),
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        tty: c.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(linux_resources),
            security_context: Some(security_context),
        }),
        ..Default::default()
    }
}

/// Where a container writes its last words.
pub fn message_path(c: &Container) -> &str {
    c.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log")
}

/// Refuses what `runAsNonRoot` forbids, given the user of the image.
///
/// # Errors
/// Upstream's words.
pub fn check_non_root(pod: &Pod, c: &Container, image: &v1::Image) -> Result<(), String> {
    let of_pod = security(pod);
    let own = c.security_context.as_ref();
    let wanted = own.and_then(|s| s.run_as_non_root).or_else(|| of_pod.and_then(|s| s.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let who = format!(
        "(pod: \"{}_{}({})\", container: {})",
        identity(pod).name,
        identity(pod).namespace,
        identity(pod).uid,
        c.name
    );
    match own.and_then(|s| s.run_as_user).or_else(|| of_pod.and_then(|s| s.run_as_user)) {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {who}")),
        Some(_) => return Ok(()),
        None => {}
    }
    match (&image.uid, image.username.as_str()) {
        (Some(uid), _) if uid.value == 0 => Err(format!("container has runAsNonRoot and image will run as root {who}")),
        (Some(_), _) => Ok(()),
        (None, "") => Err(format!("container has runAsNonRoot and image will run as root {who}")),
        (None, name) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {who}"
        )),
    }
}
