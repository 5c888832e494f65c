//! The network between nodes: a bridge for the node's pods and a tunnel to the
//! pods of every other node.
//!
//! Nothing is learned and nothing flooded: for each peer there is one route
//! (its pods, by the first address of its range), one neighbour (that
//! address's hardware address) and one forwarding entry (the node behind it).

use crate::Config;
use crate::links::{LinkError, Links, Mac, Tunnel};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its address.
    pub node_ip: IpAddr,
    /// The range of its pods.
    pub pod_cidr: IpNet,
    /// The hardware address of its tunnel device; see [`tunnel_mac`].
    pub mac: Mac,
}

impl Peer {
    /// A node whose tunnel has the hardware address that follows from its own.
    pub fn new(name: impl Into<String>, node_ip: IpAddr, pod_cidr: IpNet) -> Self {
        Self { name: name.into(), node_ip, pod_cidr, mac: tunnel_mac(node_ip) }
    }
}

/// The hardware address of a node's tunnel device.
pub fn tunnel_mac(node_ip: IpAddr) -> Mac {
    let [a, b, c, d] = folded(node_ip);
    [0x0e, 0x53, a, b, c, d]
}

fn bridge_mac(node_ip: IpAddr) -> Mac {
    let [a, b, c, d] = folded(node_ip);
    [0x0e, 0x42, a, b, c, d]
}

fn folded(addr: IpAddr) -> [u8; 4] {
    match addr {
        IpAddr::V4(addr) => addr.octets(),
        IpAddr::V6(addr) => {
            let mut folded = [0; 4];
            for (at, octet) in addr.octets().into_iter().enumerate() {
                folded[at % 4] ^= octet;
            }
            folded
        }
    }
}

/// What the tunnel's headers take from every packet.
fn overhead(node_ip: IpAddr) -> u32 {
    if node_ip.is_ipv6() { 70 } else { 50 }
}

/// The address pods of a range send through: its first.
pub fn gateway(pods: IpNet) -> Option<IpNet> {
    IpNet::new(pods.hosts().next()?, pods.prefix_len()).ok()
}

/// The node's part of the pod network.
#[derive(Debug)]
pub struct Network {
    config: Config,
    links: Links,
    tunnel: u32,
    mtu: u32,
}

impl Network {
    /// Makes bridge and tunnel, or finds them as an earlier start left them.
    pub async fn start(config: Config) -> Result<Self, LinkError> {
        let links = Links::open()?;
        let under = links.holding(config.node_ip).await?;
        let room = under.as_ref().map_or(1500, |l| l.mtu).saturating_sub(overhead(config.node_ip));
        let mtu = config.mtu.unwrap_or(room.max(1280));
        let gateway = gateway(config.pod_cidr)
            .ok_or_else(|| LinkError::Unfit(format!("{} has no addresses", config.pod_cidr)))?;

        let bridge = links.bridge(&config.bridge, bridge_mac(config.node_ip), mtu).await?;
        links.address(bridge, gateway).await?;
        let wanted = Tunnel {
            name: &config.tunnel,
            vni: config.vni,
            port: config.port,
            local: config.node_ip,
            over: under.map(|l| l.index),
            mac: tunnel_mac(config.node_ip),
            mtu,
        };
        let tunnel = links.vxlan(&wanted).await?;
        links.address(tunnel, IpNet::from(config.pod_cidr.network())).await?;

        // Without the second, the proxy never sees answers between two pods
        // on the bridge; kernels without that filter have nothing to turn on.
        sysctl(if gateway.addr().is_ipv6() { "ipv6/conf/all/forwarding" } else { "ipv4/ip_forward" })?;
        for bridged in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
            if let Err(error) = sysctl(bridged) {
                tracing::warn!(%error, "services may not be reached by pods beside their endpoints");
            }
        }
        Ok(Self { config, links, tunnel, mtu })
    }

    /// The MTU pods must keep to.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Makes the kernel know these peers and no others, whatever it knew.
    pub async fn sync_peers(&self, peers: &[Peer]) -> Result<(), LinkError> {
        let mine = self.config.pod_cidr.network();
        let peers: Vec<&Peer> = peers.iter().filter(|p| p.name != self.config.node_name).collect();
        let nets: BTreeMap<IpNet, &Peer> = peers.iter().map(|p| (p.pod_cidr.trunc(), *p)).collect();
        let (links, tunnel) = (&self.links, self.tunnel);

        for (net, route) in links.routes(tunnel).await? {
            if !nets.contains_key(&net) {
                links.unroute(route).await?;
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for (addr, mac, message) in links.neighbours(tunnel, family).await? {
                let known = |p: &&Peer| Some(p.pod_cidr.network()) == addr && Some(p.mac) == mac;
                // What the kernel has for itself (multicast, no address) stays.
                if mac.is_some() && addr.is_some_and(|a| !a.is_multicast()) && !nets.values().any(known) {
                    links.unneighbour(message).await?;
                }
            }
        }
        for (node, mac, message) in links.neighbours(tunnel, AddressFamily::Bridge).await? {
            let known = |p: &&Peer| Some(p.node_ip) == node && Some(p.mac) == mac;
            if node.is_some() && !nets.values().any(known) {
                links.unneighbour(message).await?;
            }
        }
        for (net, peer) in &nets {
            let via = net.network();
            links.forward(tunnel, peer.mac, peer.node_ip).await?;
            links.neighbour(tunnel, via, peer.mac).await?;
            links.route(tunnel, *net, via, Some(mine)).await?;
        }
        Ok(())
    }

    /// Takes bridge and tunnel away; see [`remove_links`].
    pub async fn remove_all(&self) -> Result<(), LinkError> {
        remove(&self.links, &self.config).await
    }
}

/// Takes bridge and tunnel of a configuration away, and with them every route, neighbour and
/// forwarding entry. The sysctls stay: others may rely on them by now.
pub async fn remove_links(config: &Config) -> Result<(), LinkError> {
    remove(&Links::open()?, config).await
}

async fn remove(links: &Links, config: &Config) -> Result<(), LinkError> {
    links.remove(&config.tunnel).await?;
    links.remove(&config.bridge).await
}

fn sysctl(name: &str) -> Result<(), LinkError> {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, "1").map_err(|e| LinkError::System(format!("write {path}"), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Netns, root, sh};
    use std::net::UdpSocket;
    use std::time::Duration;

    #[test]
    fn hardware_addresses_follow_from_the_nodes() {
        assert_eq!(tunnel_mac([10, 99, 0, 1].into()), [0x0e, 0x53, 10, 99, 0, 1]);
        assert_ne!(tunnel_mac("fd00::1".parse().unwrap()), tunnel_mac("fd00::2".parse().unwrap()));
    }

    fn inside<T: Send>(ns: &Netns, work: impl AsyncFnOnce() -> T + Send) -> T {
        ns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work())
        })
    }

    #[test]
    fn pods_of_two_nodes_reach_each_other_through_the_tunnel() {
        if !root() {
            return;
        }
        let nodes = [Netns::new("n1"), Netns::new("n2")];
        sh(&format!(
            "ip -n {a} link add eth0 type veth peer name eth0 netns {b}
             ip -n {a} addr add 10.99.0.1/24 dev eth0; ip -n {a} link set eth0 up
             ip -n {b} addr add 10.99.0.2/24 dev eth0; ip -n {b} link set eth0 up",
            a = nodes[0].0,
            b = nodes[1].0
        ));
        let of =
            |n: u8| Config::new(format!("n{n}"), [10, 99, 0, n].into(), format!("10.42.{n}.0/24").parse().unwrap());
        let peers = [1, 2].map(|n: u8| Peer::new(of(n).node_name, of(n).node_ip, of(n).pod_cidr));
        for (node, n) in nodes.iter().zip([1, 2]) {
            // Twice, and with a peer that goes again: the same in the end.
            let gone = Peer::new("n9", [10, 99, 0, 9].into(), "10.42.9.0/24".parse().unwrap());
            inside(node, async || {
                for known in [vec![gone], peers.to_vec(), peers.to_vec()] {
                    let network = Network::start(of(n)).await.unwrap();
                    assert_eq!(network.mtu(), 1450);
                    network.sync_peers(&known).await.unwrap();
                }
            });
            let ns = &node.0;
            let known = sh(&format!("ip -n {ns} route; ip -n {ns} neigh; bridge -n {ns} fdb show dev sampan-vxlan"));
            assert!(!known.contains("10.42.9.") && !known.contains("10.99.0.9"), "{known}");
        }
        // The bridges' own addresses stand for pods; the packet is of full size.
        let there = nodes[1].run(|| UdpSocket::bind("10.42.2.1:7000").unwrap());
        there.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let here = nodes[0].run(|| UdpSocket::bind("10.42.1.1:0").unwrap());
        here.send_to(&[7; 1422], "10.42.2.1:7000").unwrap();
        let (size, from) = there.recv_from(&mut [0; 2000]).unwrap();
        assert_eq!((size, from), (1422, here.local_addr().unwrap()));
        inside(&nodes[0], async || {
            let network = Network::start(of(1)).await.unwrap();
            network.remove_all().await.unwrap();
            network.remove_all().await.unwrap();
        });
        let left = sh(&format!("ip -n {n} -o link; ip -n {n} route", n = nodes[0].0));
        assert!(!left.contains("sampan") && !left.contains("10.42"), "{left}");
    }
}
