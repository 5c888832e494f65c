//! What a node's network needs to know about itself and its cluster.

use ipnet::IpNet;
use std::net::IpAddr;

/// Settings of one node's network.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node, as endpoint slices spell it.
    pub node_name: String,
    /// Address the other nodes reach this node at; node ports are served on it.
    pub node_ip: IpAddr,
    /// Range this node's pods get their addresses from.
    pub pod_cidr: IpNet,
    /// Range of the pods of all nodes.
    pub cluster_cidr: IpNet,
    /// Range of the services' virtual addresses.
    pub service_cidr: IpNet,
    /// Service address of cluster DNS.
    pub cluster_dns: IpAddr,
    /// Domain the cluster's names end in.
    pub cluster_domain: String,
    /// Name of the nftables table that is ours alone.
    pub table: String,
    /// Name of the bridge the pods hang on.
    pub bridge: String,
    /// Name of the tunnel device between nodes.
    pub tunnel: String,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port of the tunnel.
    pub port: u16,
    /// MTU of the pods' links; computed from the node's own link when absent.
    pub mtu: Option<u32>,
}

impl Config {
    /// The defaults of a cluster, for a node of the given name, address and pod range.
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr, pod_cidr: IpNet) -> Self {
        Self {
            node_name: node_name.into(),
            node_ip,
            pod_cidr,
            cluster_cidr: v4_net([10, 42, 0, 0], 16),
            service_cidr: v4_net([10, 43, 0, 0], 16),
            cluster_dns: IpAddr::from([10, 43, 0, 10]),
            cluster_domain: "cluster.local".into(),
            table: "sampan".into(),
            bridge: "sampan0".into(),
            tunnel: "sampan-vxlan".into(),
            vni: 1,
            port: 8472,
            mtu: None,
        }
    }
}

fn v4_net(octets: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::new_assert(octets.into(), prefix))
}
