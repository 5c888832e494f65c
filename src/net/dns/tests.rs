//! Tests of the module above.

use super::*;
use crate::testing::{service, slice};
use hickory_proto::rr::{RData, RecordType};
use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use serde_json::json;
use std::net::SocketAddr;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

fn records() -> Records {
    let meta = |name: &str| json!({"namespace": "default", "name": name});
    let services = [
        service(json!({"metadata": meta("kubernetes"), "spec": {"clusterIPs": ["10.43.0.1", "fd43::1"],
            "ports": [{"name": "https", "port": 443}]}})),
        service(json!({"metadata": meta("db"), "spec": {"clusterIP": "None",
            "ports": [{"name": "sql", "port": 5432}]}})),
        service(json!({"metadata": meta("away"), "spec": {"type": "ExternalName",
            "externalName": "Kubernetes.default.svc.cluster.local."}})),
        service(json!({"metadata": meta("loop"), "spec": {"type": "ExternalName",
            "externalName": "loop.default.svc.cluster.local"}})),
        service(json!({"metadata": meta("out"), "spec": {"type": "ExternalName",
            "externalName": "example.org"}})),
    ];
    let slices = [slice(json!({
        "metadata": {"namespace": "default", "name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.42.0.5"], "hostname": "db-0"},
            {"addresses": ["10.42.0.6"]},
            {"addresses": ["10.42.0.7"], "conditions": {"ready": false}}]}))];
    Records::build("cluster.local.", &services, &slices)
}

fn addrs(name: &str) -> Vec<String> {
    let Answer::Found(data) = records().answer(name) else { panic!("{name} is missing") };
    let addr = |d| {
        if let Data::Addr(a) = d { Some(a.to_string()) } else { None }
    };
    data.into_iter().filter_map(addr).collect()
}

#[test]
fn services_pods_and_endpoints_have_addresses() {
    assert_eq!(addrs("Kubernetes.default.svc.cluster.local."), ["10.43.0.1", "fd43::1"]);
    assert_eq!(addrs("db.default.svc.cluster.local"), ["10.42.0.5", "10.42.0.6"]);
    assert_eq!(addrs("db-0.db.default.svc.cluster.local"), ["10.42.0.5"]);
    assert_eq!(addrs("10-42-0-6.db.default.svc.cluster.local"), ["10.42.0.6"]);
    assert_eq!(addrs("10-1-2-3.default.pod.cluster.local"), ["10.1.2.3"]);
}

#[test]
fn branches_exist_and_other_names_do_not() {
    let records = records();
    for branch in
        ["cluster.local", "svc.cluster.local", "default.svc.cluster.local", "_tcp.db.default.svc.cluster.local"]
    {
        assert_eq!(records.answer(branch), Answer::Found(vec![]), "{branch}");
    }
    for missing in [
        "no.default.svc.cluster.local",
        "a.b.svc.cluster.local",
        "1-2-3.default.pod.cluster.local",
        "10-1-2-3.other.pod.cluster.local",
        "example.org.cluster.local",
    ] {
        assert_eq!(records.answer(missing), Answer::Missing, "{missing}");
    }
    for foreign in ["example.org", "notcluster.local", "9.9.9.9.in-addr.arpa", ""] {
        assert_eq!(records.answer(foreign), Answer::Foreign, "{foreign}");
    }
}

#[test]
fn addresses_lead_back_to_names() {
    let ptr = |name: &str| vec![Data::Ptr(name.into())];
    let records = records();
    assert_eq!(records.answer("1.0.43.10.in-addr.arpa"), Answer::Found(ptr("kubernetes.default.svc.cluster.local")));
    assert_eq!(records.answer("5.0.42.10.in-addr.arpa"), Answer::Found(ptr("db-0.db.default.svc.cluster.local")));
}

#[test]
fn the_server_is_not_its_own_upstream() {
    let text = "# by hand\nnameserver 10.43.0.10\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver 192.0.2.1\n";
    let own = ["10.43.0.10".parse().unwrap()];
    assert_eq!(upstreams(text, &own), ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
}

fn at(addr: SocketAddr, tcp: bool) -> NameServerConfig {
    let mut connection = if tcp { ConnectionConfig::tcp() } else { ConnectionConfig::udp() };
    connection.port = addr.port();
    NameServerConfig::new(addr.ip(), true, vec![connection])
}

/// A server of these records on a port of its own.
async fn start(records: Records, upstream: Vec<NameServerConfig>, cancel: &CancellationToken) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(addr).await.unwrap();
    let dns = Dns::forwarding(View::new(records), upstream).unwrap();
    tokio::spawn(dns.serve_on(udp, tcp, cancel.clone()));
    addr
}

#[tokio::test]
async fn queries_are_answered_and_the_rest_is_forwarded() {
    let cancel = CancellationToken::new();
    let other = service(json!({"metadata": {"namespace": "org", "name": "x"},
        "spec": {"clusterIPs": ["192.0.2.9"], "ports": []}}));
    let upstream = start(Records::build("example.org", [&other], []), vec![], &cancel).await;
    let addr = start(records(), vec![at(upstream, false)], &cancel).await;
    for tcp in [false, true] {
        let config = ResolverConfig::from_name_servers(vec![at(addr, tcp)]);
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().preserve_intermediates = true;
        let resolver = builder.build().unwrap();
        let ask = async |name: &str, kind| resolver.lookup(name, kind).await;

        let found = ask("kubernetes.default.svc.cluster.local.", RecordType::A).await.unwrap();
        assert_eq!(found.answers()[0].data, RData::A(std::net::Ipv4Addr::from([10, 43, 0, 1]).into()));
        assert_eq!(found.answers()[0].ttl, 5);
        let found = ask("kubernetes.default.svc.cluster.local.", RecordType::AAAA).await.unwrap();
        assert_eq!(found.answers().len(), 1);
        let found = ask("_sql._tcp.db.default.svc.cluster.local.", RecordType::SRV).await.unwrap();
        assert_eq!(found.answers().len(), 2);
        assert_eq!(found.additionals().len(), 2);
        let found = ask("away.default.svc.cluster.local.", RecordType::A).await.unwrap();
        assert!(found.answers().iter().any(|r| r.data == RData::A(std::net::Ipv4Addr::from([10, 43, 0, 1]).into())));
        let found = ask("x.org.svc.example.org.", RecordType::A).await.unwrap();
        assert_eq!(found.answers()[0].data, RData::A(std::net::Ipv4Addr::from([192, 0, 2, 9]).into()));

        let none = ask("no.default.svc.cluster.local.", RecordType::A).await.unwrap_err();
        assert!(none.is_nx_domain(), "{none}");
        let none = ask("x.no.svc.example.org.", RecordType::A).await.unwrap_err();
        assert!(none.is_nx_domain(), "{none}");
        let none = ask("db.default.svc.cluster.local.", RecordType::AAAA).await.unwrap_err();
        assert!(none.is_no_records_found() && !none.is_nx_domain(), "{none}");
        assert!(ask("loop.default.svc.cluster.local.", RecordType::A).await.is_err());
    }
    cancel.cancel();
}
