//! The server: UDP and TCP, from the records or from upstream.

use super::View;
use super::records::{Answer, Data};
use hickory_proto::op::{Metadata, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::{Time, TokioRuntimeProvider};
use hickory_resolver::net::{DnsError as Failure, NetError};
use hickory_resolver::{Resolver, TokioResolver};
use hickory_server::Server;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

/// How long an answer may be kept, in seconds.
const TTL: u32 = 5;
/// How long a silent TCP client may stay.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most aliases followed for one question.
const ALIASES: usize = 8;

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address is not to be had.
    #[error("listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The server stopped by itself, or could not be set up.
    #[error(transparent)]
    Server(#[from] NetError),
}

/// The resolvers that a resolv.conf names, without those that would lead back here.
pub fn upstreams(resolv_conf: &str, own: &[IpAddr]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        if let Some(Ok(addr)) = words.next().map(str::parse)
            && !own.contains(&addr)
            && !found.contains(&addr)
        {
            found.push(addr);
        }
    }
    found
}

/// The cluster's DNS server on this node.
pub struct Dns {
    records: View,
    upstream: Option<TokioResolver>,
}

impl Dns {
    /// Answers from the records, and by these resolvers what is not the
    /// cluster's; without any, such names are refused.
    pub fn new(records: View, upstreams: &[IpAddr]) -> Result<Self, DnsError> {
        let servers = upstreams.iter().map(|ip| NameServerConfig::udp_and_tcp(*ip)).collect();
        Self::forwarding(records, servers)
    }

    /// Like [`Dns::new`], with resolvers given in full.
    pub fn forwarding(records: View, servers: Vec<NameServerConfig>) -> Result<Self, DnsError> {
        let upstream = if servers.is_empty() {
            None
        } else {
            let config = ResolverConfig::from_name_servers(servers);
            let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
            let options = builder.options_mut();
            options.use_hosts_file = ResolveHosts::Never;
            options.positive_max_ttl = Some(Duration::from_secs(30));
            options.negative_max_ttl = Some(Duration::from_secs(5));
            options.preserve_intermediates = true;
            options.timeout = Duration::from_secs(2);
            Some(builder.build()?)
        };
        Ok(Self { records, upstream })
    }

    /// Serves an address, by the machine's own resolvers for the rest, until cancelled.
    pub async fn run(addr: SocketAddr, records: View, cancel: CancellationToken) -> Result<(), DnsError> {
        let text = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
        let dns = Self::new(records, &upstreams(&text, &[addr.ip()]))?;
        dns.serve(addr, cancel).await
    }

    /// Serves an address until cancelled.
    pub async fn serve(self, addr: SocketAddr, cancel: CancellationToken) -> Result<(), DnsError> {
        let listen = |error| DnsError::Listen(addr, error);
        let udp = UdpSocket::bind(addr).await.map_err(listen)?;
        let tcp = TcpListener::bind(addr).await.map_err(listen)?;
        self.serve_on(udp, tcp, cancel).await
    }

    /// Serves sockets that are open already, until cancelled.
    pub async fn serve_on(self, udp: UdpSocket, tcp: TcpListener, cancel: CancellationToken) -> Result<(), DnsError> {
        let mut server = Server::new(self);
        server.register_socket(udp);
        server.register_listener(tcp, PATIENCE, 32);
        tokio::select! {
            done = server.block_until_done() => return Ok(done?),
            () = cancel.cancelled() => {}
        }
        Ok(server.shutdown_gracefully().await?)
    }

    async fn resolve(&self, name: &Name, kind: RecordType) -> Reply {
        let records = self.records.load();
        let mut reply = Reply::default();
        let mut at = name.clone();
        for _ in 0..ALIASES {
            match records.answer(&at.to_ascii()) {
                Answer::Missing => {
                    reply.authoritative = true;
                    reply.code = ResponseCode::NXDomain;
                    reply.soa = soa(records.domain());
                    return reply;
                }
                Answer::Found(data) => {
                    reply.authoritative = true;
                    let alias = data.iter().find_map(|d| match d {
                        Data::Cname(to) => Name::from_ascii(format!("{to}.")).ok(),
                        _ => None,
                    });
                    let before = reply.answers.len();
                    let found = data.iter().filter_map(rdata);
                    let found = found.filter(|d| kind == RecordType::ANY || d.record_type() == kind);
                    reply.answers.extend(found.map(|d| Record::from_rdata(at.clone(), TTL, d)));
                    if kind == RecordType::SRV {
                        reply.more.extend(targets(&records, &data));
                    }
                    match alias {
                        Some(to) if !matches!(kind, RecordType::CNAME | RecordType::ANY) => {
                            let data = RData::CNAME(CNAME(to.clone()));
                            reply.answers.push(Record::from_rdata(at, TTL, data));
                            at = to;
                        }
                        _ => {
                            if reply.answers.len() == before && before == 0 {
                                reply.soa = soa(records.domain());
                            }
                            return reply;
                        }
                    }
                }
                Answer::Foreign => {
                    self.forward(&at, kind, &mut reply).await;
                    return reply;
                }
            }
        }
        reply.code = ResponseCode::ServFail;
        reply
    }

    async fn forward(&self, name: &Name, kind: RecordType, reply: &mut Reply) {
        let Some(upstream) = &self.upstream else {
            if reply.answers.is_empty() {
                reply.code = ResponseCode::Refused;
            }
            return;
        };
        let mut name = name.clone();
        name.set_fqdn(true);
        match upstream.lookup(name, kind).await {
            Ok(lookup) => reply.answers.extend(lookup.answers().iter().cloned()),
            Err(NetError::Dns(Failure::NoRecordsFound(none))) => {
                reply.code = none.response_code;
                if let Some(soa) = none.soa {
                    reply.soa = Some(soa.into_record_of_rdata());
                }
            }
            Err(NetError::Dns(Failure::ResponseCode(code))) => reply.code = code,
            Err(error) => {
                tracing::debug!(%error, "upstream did not answer");
                reply.code = ResponseCode::ServFail;
            }
        }
    }
}

struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    soa: Option<Record>,
    more: Vec<Record>,
}

impl Default for Reply {
    fn default() -> Self {
        let (answers, more) = (Vec::new(), Vec::new());
        Self { code: ResponseCode::NoError, authoritative: false, answers, soa: None, more }
    }
}

/// Everything but an alias, which [`Dns::resolve`] follows.
fn rdata(data: &Data) -> Option<RData> {
    Some(match data {
        Data::Addr(IpAddr::V4(addr)) => RData::A((*addr).into()),
        Data::Addr(IpAddr::V6(addr)) => RData::AAAA((*addr).into()),
        Data::Srv { port, target } => RData::SRV(SRV::new(0, 100, *port, Name::from_ascii(format!("{target}.")).ok()?)),
        Data::Ptr(name) => RData::PTR(PTR(Name::from_ascii(format!("{name}.")).ok()?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Data::Cname(to) => RData::CNAME(CNAME(Name::from_ascii(format!("{to}.")).ok()?)),
    })
}

/// The addresses of the names that service records lead to.
fn targets(records: &super::Records, data: &[Data]) -> Vec<Record> {
    let mut found = Vec::new();
    for data in data {
        let Data::Srv { target, .. } = data else {
            continue;
        };
        let (Answer::Found(addrs), Ok(name)) = (records.answer(target), Name::from_ascii(format!("{target}."))) else {
            continue;
        };
        let addrs = addrs.iter().filter(|a| matches!(a, Data::Addr(_))).filter_map(rdata);
        found.extend(addrs.map(|a| Record::from_rdata(name.clone(), TTL, a)));
    }
    found
}

fn soa(domain: &str) -> Option<Record> {
    let zone = Name::from_ascii(format!("{domain}.")).ok()?;
    let server = Name::from_ascii("ns.dns.").ok()?.append_domain(&zone).ok()?;
    let owner = Name::from_ascii("hostmaster.").ok()?.append_domain(&zone).ok()?;
    let soa = SOA::new(server, owner, 1, 7200, 1800, 86_400, TTL);
    Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
}

#[async_trait::async_trait]
impl RequestHandler for Dns {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut out: R) -> ResponseInfo {
        let reply = match request.request_info() {
            Ok(info) if info.query.query_class() == DNSClass::IN => {
                self.resolve(info.query.original().name(), info.query.query_type()).await
            }
            Ok(_) => Reply { code: ResponseCode::Refused, ..Reply::default() },
            Err(_) => Reply { code: ResponseCode::FormErr, ..Reply::default() },
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let response = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            &reply.answers,
            [],
            &reply.soa,
            &reply.more,
        );
        match out.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "a DNS answer was not sent");
                metadata.response_code = ResponseCode::ServFail;
                hickory_proto::op::Header { metadata, counts: Default::default() }.into()
            }
        }
    }
}
