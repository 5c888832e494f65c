//! The agent's side.

use super::{Failure, Ipam, Request, Response};
use crate::Config;
use crate::links::{LinkError, Links, Mac};
use crate::overlay::gateway;
use ipnet::IpNet;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkBridgePort, LinkUnspec, LinkVeth};
use serde_json::{Value, json};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// Longest wish that is read.
const LONGEST: u64 = 1 << 20;

/// Why a pod's link was not made.
#[derive(Debug, thiserror::Error)]
enum CniError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("address: {0}")]
    Ipam(io::Error),
    #[error("network namespace {0}: {1}")]
    Netns(String, io::Error),
    #[error("{0}")]
    Unfit(String),
}

/// Gives pods their links and addresses.
pub struct CniServer {
    config: Config,
    mtu: u32,
    ipam: Ipam,
    links: Links,
    // Two wishes for one sandbox must not cross; each takes milliseconds.
    turn: Mutex<()>,
}

impl CniServer {
    /// Serves pods of the configured range on the configured bridge; addresses
    /// are kept under the directory.
    pub fn new(config: Config, mtu: u32, dir: &Path) -> Result<Self, LinkError> {
        let ipam = Ipam::open(dir, config.pod_cidr);
        let ipam = ipam.map_err(|e| LinkError::System(format!("open {}", dir.display()), e))?;
        Ok(Self { config, mtu, ipam, links: Links::open()?, turn: Mutex::new(()) })
    }

    /// Answers plugins until cancelled.
    pub async fn serve(self: Arc<Self>, listener: UnixListener, cancel: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = cancel.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let server = Arc::clone(&self);
                    tokio::spawn(async move {
                        if let Err(error) = server.converse(stream).await {
                            tracing::warn!(%error, "a CNI plugin was not answered");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a CNI plugin");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        BufReader::new(read.take(LONGEST)).read_line(&mut line).await?;
        let response = match serde_json::from_str::<Request>(&line) {
            Ok(request) => self.handle(&request).await,
            Err(error) => Response::Failed(Failure::new(6, error)),
        };
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        write.write_all(&line).await
    }

    /// Fulfils one wish.
    pub async fn handle(&self, request: &Request) -> Response {
        let _turn = self.turn.lock().await;
        let done = match request.command.as_str() {
            "ADD" => match self.add(request).await {
                Ok(result) => Ok(Some(result)),
                Err(error) => {
                    // Nothing half-made stays.
                    if let Err(also) = self.del(request).await {
                        tracing::warn!(error = %also, "take back a pod's link");
                    }
                    Err(error)
                }
            },
            "DEL" => self.del(request).await.map(|()| None),
            "CHECK" => self.check(request).await.map(|()| None),
            other => Err(CniError::Unfit(format!("command {other} is not known"))),
        };
        match done {
            Ok(result) => Response::Done(result),
            Err(error) => Response::Failed(Failure::new(100, error)),
        }
    }

    async fn add(&self, request: &Request) -> Result<Value, CniError> {
        let host = host_name(request);
        let netns = File::open(&request.netns).map_err(|e| CniError::Netns(request.netns.clone(), e))?;
        let range = self.config.pod_cidr;
        let gateway = gateway(range).ok_or_else(|| CniError::Unfit(format!("{range} is too small")))?.addr();
        let addr = self.ipam.take(&owner(request)).map_err(CniError::Ipam)?;
        let net = IpNet::new(addr, range.prefix_len()).map_err(|e| CniError::Unfit(e.to_string()))?;
        let bridge = self.links.need(&self.config.bridge).await?.index;

        self.links.remove(&host).await?;
        let inner = LinkUnspec::new_with_name(&request.ifname).mtu(self.mtu);
        let inner = inner.setns_by_fd(netns.as_raw_fd()).build();
        let pair = LinkVeth::new(&host, &request.ifname).set_info_data(InfoData::Veth(InfoVeth::Peer(inner)));
        let pair = pair.mtu(self.mtu).build();
        let added = self.links.handle.link().add(pair).execute().await;
        added.map_err(|e| LinkError::Netlink(format!("add link {host}"), e))?;
        let outer = self.links.need(&host).await?;
        let onto = LinkUnspec::new_with_index(outer.index).controller(bridge).up().build();
        self.links.set(onto, "put the pod's link on the bridge").await?;
        // A pod may reach itself through a service.
        let hairpin = LinkBridgePort::new(outer.index).hairpin(true).build();
        let set = self.links.handle.link().set_port(hairpin).execute().await;
        set.map_err(|e| LinkError::Netlink("set hairpin mode".into(), e))?;

        let ifname = request.ifname.clone();
        let mac = within(&request.netns, netns, async move || furnish(&ifname, net, gateway).await).await?;
        Ok(self.result(request, net, gateway, outer.mac, mac))
    }

    fn result(&self, request: &Request, net: IpNet, gateway: IpAddr, outer: Option<Mac>, inner: Mac) -> Value {
        let outer = outer.map(text).unwrap_or_default();
        let mut ip = json!({"address": net.to_string(), "gateway": gateway.to_string(), "interface": 1});
        if request.version.starts_with("0.") {
            ip["version"] = json!(if net.addr().is_ipv6() { "6" } else { "4" });
        }
        let everywhere = if net.addr().is_ipv6() { "::/0" } else { "0.0.0.0/0" };
        json!({
            "cniVersion": request.version,
            "interfaces": [
                {"name": host_name(request), "mac": outer},
                {"name": request.ifname, "mac": text(inner), "sandbox": request.netns}],
            "ips": [ip],
            "routes": [{"dst": everywhere, "gw": gateway.to_string()}],
            "dns": {},
        })
    }

    async fn del(&self, request: &Request) -> Result<(), CniError> {
        self.links.remove(&host_name(request)).await?;
        self.ipam.free(&owner(request)).map_err(CniError::Ipam)
    }

    async fn check(&self, request: &Request) -> Result<(), CniError> {
        self.links.need(&host_name(request)).await?;
        if self.ipam.of(&owner(request)).map_err(CniError::Ipam)?.is_empty() {
            return Err(CniError::Unfit("the sandbox has no address".into()));
        }
        Ok(())
    }
}

fn owner(request: &Request) -> String {
    format!("{} {}", request.container_id, request.ifname)
}

/// The name of the node's end, the same for the same sandbox and link.
fn host_name(request: &Request) -> String {
    // FNV-1a, of which as much as a link's name has room for.
    let hash = owner(request)
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("veth{:011x}", hash >> 20)
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Inside the pod: loopback, address and default route.
async fn furnish(ifname: &str, net: IpNet, gateway: IpAddr) -> Result<Mac, LinkError> {
    let links = Links::open()?;
    links.up(links.need("lo").await?.index).await?;
    let link = links.need(ifname).await?;
    links.address(link.index, net).await?;
    links.up(link.index).await?;
    let everywhere = IpNet::new(if net.addr().is_ipv6() { [0; 16].into() } else { [0; 4].into() }, 0);
    let everywhere = everywhere.map_err(|e| LinkError::Unfit(e.to_string()))?;
    links.route(link.index, everywhere, gateway, None).await?;
    link.mac.ok_or_else(|| LinkError::Unfit(format!("link {ifname} has no hardware address")))
}

/// Works inside a network namespace, on a thread that ends with the work: a
/// thread that changed its namespace must not do anybody else's.
async fn within<T: Send + 'static>(
    name: &str,
    netns: File,
    work: impl AsyncFnOnce() -> Result<T, LinkError> + Send + 'static,
) -> Result<T, CniError> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    let at = name.to_owned();
    let inside = move || -> Result<T, CniError> {
        let refused = |e: io::Error| CniError::Netns(at.clone(), e);
        nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET).map_err(|e| refused(e.into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        Ok(runtime.block_on(work())?)
    };
    std::thread::Builder::new()
        .name("pod-netns".into())
        .spawn(move || done.send(inside()))
        .map_err(|e| CniError::Netns(name.into(), e))?;
    outcome.await.map_err(|_| CniError::Unfit(format!("work in {name} broke off")))?
}
