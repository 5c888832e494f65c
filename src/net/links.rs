//! Links, addresses, neighbours and routes over netlink.

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVxlan, RouteMessageBuilder};
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A hardware address.
pub type Mac = [u8; 6];

/// Why a link is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The kernel refused.
    #[error("{0}: {1}")]
    Netlink(String, rtnetlink::Error),
    /// A file or socket of the system was not to be had.
    #[error("{0}: {1}")]
    System(String, io::Error),
    /// A link that ought to be there is not.
    #[error("there is no link {0}")]
    NoLink(String),
    /// The setting cannot be done with these addresses.
    #[error("{0}")]
    Unfit(String),
}

fn because(what: impl Display) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    move |error| LinkError::Netlink(what.to_string(), error)
}

/// Whether the kernel answered with one of these error numbers.
fn is(error: &rtnetlink::Error, numbers: &[i32]) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(e) if numbers.contains(&-e.raw_code()))
}

const ABSENT: &[i32] = &[libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL];

/// What is known of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its MTU.
    pub mtu: u32,
    /// Its hardware address.
    pub mac: Option<Mac>,
}

impl Link {
    fn read(message: &LinkMessage) -> Self {
        let (mut mtu, mut mac) = (1500, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(value) => mtu = *value,
                LinkAttribute::Address(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
                _ => {}
            }
        }
        Self { index: message.header.index, mtu, mac }
    }
}

/// The links of one network namespace.
#[derive(Clone, Debug)]
pub struct Links {
    pub(crate) handle: Handle,
}

impl Links {
    /// Those of the namespace the calling thread is in. Its messages are
    /// carried by a task of the current runtime.
    pub fn open() -> Result<Self, LinkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|e| LinkError::System("open netlink".into(), e))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The link of a name.
    pub async fn find(&self, name: &str) -> Result<Option<Link>, LinkError> {
        match self.handle.link().get().match_name(name).execute().try_next().await {
            Ok(message) => Ok(message.as_ref().map(Link::read)),
            Err(error) if is(&error, ABSENT) => Ok(None),
            Err(error) => Err(because(format!("look for link {name}"))(error)),
        }
    }

    /// The link of a name, which must be there.
    pub async fn need(&self, name: &str) -> Result<Link, LinkError> {
        self.find(name).await?.ok_or_else(|| LinkError::NoLink(name.into()))
    }

    /// The link that has an address.
    pub async fn holding(&self, addr: IpAddr) -> Result<Option<Link>, LinkError> {
        let mut addresses = self.handle.address().get().execute();
        let mut index = None;
        while let Some(message) = addresses.try_next().await.map_err(because("list addresses"))? {
            let mut held = message.attributes.iter();
            if held.any(|a| matches!(a, AddressAttribute::Address(at) if *at == addr)) {
                index = Some(message.header.index);
            }
        }
        let Some(index) = index else { return Ok(None) };
        let mut found = self.handle.link().get().match_index(index).execute();
        let message = found.try_next().await.map_err(because(format!("look for link {index}")))?;
        Ok(message.as_ref().map(Link::read))
    }

    /// Sets a link up.
    pub async fn up(&self, index: u32) -> Result<(), LinkError> {
        self.set(LinkUnspec::new_with_index(index).up().build(), "set link up").await
    }

    pub(crate) async fn set(&self, message: LinkMessage, what: &str) -> Result<(), LinkError> {
        self.handle.link().set(message).execute().await.map_err(because(what))
    }

    /// A bridge that is up.
    pub async fn bridge(&self, name: &str, mac: Mac, mtu: u32) -> Result<u32, LinkError> {
        if self.find(name).await?.is_none() {
            let message = LinkBridge::new(name).address(mac.to_vec()).build();
            let added = self.handle.link().add(message).execute().await;
            added.map_err(because(format!("add bridge {name}")))?;
        }
        let index = self.need(name).await?.index;
        self.set(LinkUnspec::new_with_index(index).mtu(mtu).up().build(), "set up the bridge").await?;
        Ok(index)
    }

    /// A VXLAN device that is up and learns nothing by itself. One that was
    /// made with another hardware address is made anew.
    pub async fn vxlan(&self, wanted: &Tunnel<'_>) -> Result<u32, LinkError> {
        let name = wanted.name;
        let there = self.find(name).await?;
        if there.as_ref().is_some_and(|l| l.mac != Some(wanted.mac)) {
            self.remove(name).await?;
        }
        if there.is_none_or(|l| l.mac != Some(wanted.mac)) {
            let vxlan = LinkVxlan::new(name, wanted.vni).port(wanted.port).learning(false);
            let vxlan = vxlan.address(wanted.mac.to_vec()).mtu(wanted.mtu);
            let vxlan = match wanted.local {
                IpAddr::V4(local) => vxlan.local(local),
                IpAddr::V6(local) => vxlan.local6(local),
            };
            let vxlan = wanted.over.iter().fold(vxlan, |vxlan, over| vxlan.dev(*over));
            let added = self.handle.link().add(vxlan.build()).execute().await;
            added.map_err(because(format!("add tunnel {name}")))?;
        }
        let index = self.need(name).await?.index;
        let up = LinkUnspec::new_with_index(index).mtu(wanted.mtu).up().build();
        self.set(up, "set up the tunnel").await?;
        Ok(index)
    }

    /// Takes a link away, if it is there.
    pub async fn remove(&self, name: &str) -> Result<(), LinkError> {
        let Some(link) = self.find(name).await? else {
            return Ok(());
        };
        match self.handle.link().del(link.index).execute().await {
            Err(error) if !is(&error, ABSENT) => Err(because(format!("remove link {name}"))(error)),
            _ => Ok(()),
        }
    }

    /// An address on a link.
    pub async fn address(&self, index: u32, net: IpNet) -> Result<(), LinkError> {
        let add = self.handle.address().add(index, net.addr(), net.prefix_len());
        add.replace().execute().await.map_err(because(format!("add address {net}")))
    }

    /// A route, by a gateway that is taken to be on the link.
    pub async fn route(&self, index: u32, to: IpNet, via: IpAddr, source: Option<IpAddr>) -> Result<(), LinkError> {
        let message = match (to, via) {
            (IpNet::V4(to), IpAddr::V4(via)) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new();
                let route = route.destination_prefix(to.addr(), to.prefix_len()).gateway(via);
                let route = route.output_interface(index).onlink();
                match source {
                    Some(IpAddr::V4(source)) => route.pref_source(source).build(),
                    _ => route.build(),
                }
            }
            (IpNet::V6(to), IpAddr::V6(via)) => {
                let route = RouteMessageBuilder::<Ipv6Addr>::new();
                let route = route.destination_prefix(to.addr(), to.prefix_len()).gateway(via);
                route.output_interface(index).onlink().build()
            }
            _ => return Err(LinkError::Unfit(format!("{to} is not reached by {via}"))),
        };
        let add = self.handle.route().add(message).replace().execute().await;
        add.map_err(because(format!("add route to {to} by {via}")))
    }

    /// The routes that leave by a link through a gateway.
    pub(crate) async fn routes(&self, index: u32) -> Result<Vec<(IpNet, RouteMessage)>, LinkError> {
        let mut found = Vec::new();
        for query in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()] {
            let mut routes = self.handle.route().get(query).execute();
            while let Some(route) = routes.try_next().await.map_err(because("list routes"))? {
                let of_link = route.attributes.contains(&RouteAttribute::Oif(index));
                let gateway = route.attributes.iter().any(|a| matches!(a, RouteAttribute::Gateway(_)));
                let to = route.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Destination(RouteAddress::Inet(a)) => Some(IpAddr::V4(*a)),
                    RouteAttribute::Destination(RouteAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
                    _ => None,
                });
                let net = to.and_then(|to| IpNet::new(to, route.header.destination_prefix_length).ok());
                if let Some(net) = net.filter(|_| of_link && gateway) {
                    found.push((net, route));
                }
            }
        }
        Ok(found)
    }

    pub(crate) async fn unroute(&self, route: RouteMessage) -> Result<(), LinkError> {
        match self.handle.route().del(route).execute().await {
            Err(error) if !is(&error, ABSENT) => Err(because("remove a route")(error)),
            _ => Ok(()),
        }
    }

    /// Who has an address on a link, for good.
    pub(crate) async fn neighbour(&self, index: u32, addr: IpAddr, mac: Mac) -> Result<(), LinkError> {
        let add = self.handle.neighbours().add(index, addr).link_layer_address(&mac).replace();
        add.execute().await.map_err(because(format!("add neighbour {addr}")))
    }

    /// Which node a hardware address is behind.
    pub(crate) async fn forward(&self, index: u32, mac: Mac, node: IpAddr) -> Result<(), LinkError> {
        let add = self.handle.neighbours().add_bridge(index, &mac).destination(node);
        let add = add.flags(NeighbourFlags::Own).replace();
        add.execute().await.map_err(because(format!("add forwarding to {node}")))
    }

    /// The permanent neighbours of a link: its forwarding entries, or those of a family.
    pub(crate) async fn neighbours(
        &self,
        index: u32,
        family: AddressFamily,
    ) -> Result<Vec<(Option<IpAddr>, Option<Mac>, NeighbourMessage)>, LinkError> {
        let mut found = Vec::new();
        let mut all = self.handle.neighbours().get().set_address_family(family).execute();
        while let Some(message) = all.try_next().await.map_err(because("list neighbours"))? {
            if message.header.ifindex != index || message.header.family != family {
                continue;
            }
            let (mut addr, mut mac) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => addr = Some((*a).into()),
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => addr = Some((*a).into()),
                    NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                        addr = match bytes.len() {
                            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
                            16 => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
                            _ => None,
                        }
                    }
                    NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
                    _ => {}
                }
            }
            found.push((addr, mac, message));
        }
        Ok(found)
    }

    pub(crate) async fn unneighbour(&self, message: NeighbourMessage) -> Result<(), LinkError> {
        match self.handle.neighbours().del(message).execute().await {
            Err(error) if !is(&error, ABSENT) => Err(because("remove a neighbour")(error)),
            _ => Ok(()),
        }
    }
}

/// What a VXLAN device should be.
#[derive(Clone, Debug)]
pub struct Tunnel<'a> {
    /// Name of the device.
    pub name: &'a str,
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// This node's address.
    pub local: IpAddr,
    /// The link the node's address is on.
    pub over: Option<u32>,
    /// Hardware address.
    pub mac: Mac,
    /// MTU.
    pub mtu: u32,
}
