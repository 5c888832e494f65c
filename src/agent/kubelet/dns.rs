//! A pod's host name, `/etc/hosts` and resolvers.
//!
//! Upstream: `pkg/kubelet/network/dns/dns.go`, `kubelet_pods.go` (ensureHostsFile).

use std::net::IpAddr;
use std::path::Path;

use api::k8s::core::v1::Pod;

use super::cri::v1;

/// Names in the first line of a managed hosts file.
const MANAGED: &str = "# Kubernetes-managed hosts file.\n";

/// The pod's host name and its domain (empty when it has none).
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.spec.as_ref();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(full) = spec.and_then(|s| s.hostname_override.as_deref()).filter(|h| !h.is_empty()) {
        return (full.to_owned(), String::new());
    }
    let host = spec.and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty()).unwrap_or(name);
    // A host name has at most 63 characters.
    let host = host.get(..63).unwrap_or(host).trim_end_matches(['-', '.']).to_owned();
    let domain = match spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty()) {
        Some(sub) => {
            let ns = pod.metadata.namespace.as_deref().unwrap_or("default");
            format!("{sub}.{ns}.svc.{cluster_domain}")
        }
        None => String::new(),
    };
    let fqdn = spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true);
    if fqdn && !domain.is_empty() { (format!("{host}.{domain}"), domain) } else { (host, domain) }
}

/// The contents of a pod's hosts file.
pub fn hosts_file(pod: &Pod, pod_ips: &[String], hostname: &str, domain: &str, of_node: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut out = String::from(MANAGED);
    if spec.and_then(|s| s.host_network) == Some(true) {
        out = String::from("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(of_node);
    } else {
        out.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        out.push_str(
            "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        for ip in pod_ips {
            if domain.is_empty() || hostname.contains('.') {
                out.push_str(&format!("{ip}\t{hostname}\n"));
            } else {
                out.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n"));
            }
        }
    }
    let aliases = spec.and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for a in aliases {
            out.push_str(&format!(
                "{}\t{}\n",
                a.ip,
                a.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
            ));
        }
    }
    out
}

/// Reads a resolv.conf.
pub fn parse(text: &str) -> v1::DnsConfig {
    let mut d = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => d.servers.extend(words.next().map(str::to_owned)),
            Some("search") => d.searches = words.map(|w| w.trim_end_matches('.').to_owned()).collect(),
            Some("options") => d.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    d
}

/// The pod's resolvers, by `dnsPolicy` and `dnsConfig`.
pub fn resolvers(pod: &Pod, cluster_dns: &[IpAddr], cluster_domain: &str, host_file: &Path) -> v1::DnsConfig {
    let spec = pod.spec.as_ref();
    let host = || parse(&std::fs::read_to_string(host_file).unwrap_or_default());
    let host_network = spec.and_then(|s| s.host_network) == Some(true);
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster = match policy {
        "None" | "Default" => false,
        "ClusterFirstWithHostNet" => true,
        _ => !host_network,
    };
    let mut d = if policy == "None" {
        v1::DnsConfig::default()
    } else if cluster && !cluster_dns.is_empty() {
        let ns = pod.metadata.namespace.as_deref().unwrap_or("default");
        let mut searches =
            vec![format!("{ns}.svc.{cluster_domain}"), format!("svc.{cluster_domain}"), cluster_domain.to_owned()];
        searches.extend(host().searches);
        v1::DnsConfig {
            servers: cluster_dns.iter().map(ToString::to_string).collect(),
            searches,
            options: vec!["ndots:5".to_owned()],
        }
    } else {
        host()
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        d.servers.extend(own.nameservers.clone().unwrap_or_default());
        d.searches.extend(own.searches.clone().unwrap_or_default());
        for o in own.options.iter().flatten() {
            let Some(name) = &o.name else { continue };
            d.options.retain(|e| e.split(':').next() != Some(name));
            d.options.push(match o.value.as_deref().filter(|v| !v.is_empty()) {
                Some(v) => format!("{name}:{v}"),
                None => name.clone(),
            });
        }
    }
    let mut seen = std::collections::HashSet::new();
    d.servers.retain(|s| seen.insert(s.clone()));
    d.servers.truncate(3);
    let mut seen = std::collections::HashSet::new();
    d.searches.retain(|s| seen.insert(s.clone()));
    d.searches.truncate(32);
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap()
    }

    #[test]
    fn cluster_first_searches_the_namespace_and_dns_config_adds_to_it() {
        let p = pod(
            serde_json::json!({"containers": [], "dnsConfig": {"searches": ["x.org"], "options": [{"name": "ndots", "value": "2"}]}}),
        );
        let d = resolvers(&p, &["10.43.0.10".parse().unwrap()], "cluster.local", Path::new("/nonexistent"));
        assert_eq!(d.servers, ["10.43.0.10"]);
        assert_eq!(d.searches, ["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "x.org"]);
        assert_eq!(d.options, ["ndots:2"]);
    }

    #[test]
    fn a_hosts_file_has_the_pod_and_its_aliases() {
        let p = pod(serde_json::json!({"containers": [], "subdomain": "s",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let (host, domain) = hostname(&p, "cluster.local");
        let text = hosts_file(&p, &["10.42.0.5".into()], &host, &domain, "");
        assert!(text.contains("10.42.0.5\tp.s.n.svc.cluster.local\tp\n"));
        assert!(text.ends_with("1.2.3.4\ta\tb\n"));
    }
}
