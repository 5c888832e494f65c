//! Tests of the module above.

use super::render;
use super::sync::{Outcome, Syncer};
use super::table::*;
use crate::nft::{Fake, Kernel};
use crate::testing::{self, Netns, config, root, sh};
use api::k8s::core::v1::Service;
use api::k8s::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

fn web(more: Value) -> Service {
    let mut spec = json!({"clusterIPs": ["10.43.0.80"], "ports": [{"name": "http", "port": 80}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    testing::service(json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec,
        "status": {"loadBalancer": {"ingress": [{"ip": "10.99.9.9"}]}}}))
}

/// Endpoints as (address, node, ready, terminating).
fn pods(of: &[(&str, &str, bool, bool)]) -> EndpointSlice {
    let endpoints: Vec<Value> = of
        .iter()
        .map(|(addr, node, ready, ending)| {
            json!({"addresses": [addr], "nodeName": node,
                "conditions": {"ready": ready, "serving": true, "terminating": ending}})
        })
        .collect();
    testing::slice(json!({
        "metadata": {"namespace": "ns", "name": "web-1", "labels": {SERVICE_NAME: "web"}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}))
}

fn two() -> EndpointSlice {
    pods(&[("10.42.0.5", "one", true, false), ("10.42.1.6", "two", true, false)])
}

fn table(service: &Service, slice: &EndpointSlice) -> Table {
    Table::desired(&config(), [service], [slice])
}

fn at(table: &Table, addr: &str, port: u16) -> Frontend {
    let front = Front { addr: addr.parse().unwrap(), protocol: Protocol::Tcp, port };
    table.frontends.get(&front).cloned().unwrap()
}

fn addrs(target: &Target) -> Vec<String> {
    target.endpoints().iter().map(|e| format!("{}:{}", e.addr, e.port)).collect()
}

#[test]
fn a_cluster_address_leads_to_all_ready_endpoints() {
    let table = table(&web(json!({})), &two());
    let front = at(&table, "10.43.0.80", 80);
    assert_eq!(addrs(&front.target), ["10.42.0.5:8080", "10.42.1.6:8080"]);
    assert!(!front.masquerade);
    assert_eq!(table.hairpin.len(), 1);
}

#[test]
fn ending_endpoints_serve_only_when_no_other_does() {
    let mixed = pods(&[("10.42.0.5", "one", false, true), ("10.42.1.6", "two", true, false)]);
    assert_eq!(addrs(&at(&table(&web(json!({})), &mixed), "10.43.0.80", 80).target), ["10.42.1.6:8080"]);
    let last = pods(&[("10.42.0.5", "one", false, true), ("10.42.0.6", "one", false, false)]);
    assert_eq!(addrs(&at(&table(&web(json!({})), &last), "10.43.0.80", 80).target), ["10.42.0.5:8080"]);
}

#[test]
fn without_endpoints_it_is_refused() {
    let table = table(&web(json!({})), &pods(&[]));
    assert_eq!(at(&table, "10.43.0.80", 80).target, Target::Refuse(Refusal::Reject));
}

#[test]
fn local_policies_keep_to_the_node() {
    let ports = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
    let service = web(json!({"type": "LoadBalancer", "ports": ports, "externalTrafficPolicy": "Local",
        "internalTrafficPolicy": "Local", "externalIPs": ["192.0.2.7"]}));
    let here = table(&service, &two());
    assert_eq!(addrs(&at(&here, "10.43.0.80", 80).target), ["10.42.0.5:8080"]);
    for (addr, port) in [("10.99.0.1", 30080), ("192.0.2.7", 80), ("10.99.9.9", 80)] {
        let front = at(&here, addr, port);
        assert_eq!(addrs(&front.target), ["10.42.0.5:8080"]);
        assert_eq!(addrs(&front.inside.unwrap()).len(), 2);
        assert!(!front.masquerade);
    }
    let away = table(&service, &pods(&[("10.42.1.6", "two", true, false)]));
    assert_eq!(at(&away, "10.99.0.1", 30080).target, Target::Refuse(Refusal::Drop));
}

#[test]
fn headless_external_and_foreign_services_are_not_served() {
    for spec in [json!({"clusterIPs": ["None"]}), json!({"type": "ExternalName", "clusterIPs": []})] {
        assert!(table(&web(spec), &two()).frontends.is_empty());
    }
}

#[test]
fn a_change_of_endpoints_is_elements_only() {
    let (config, service) = (config(), web(json!({})));
    let old = table(&service, &two());
    let new = table(&service, &pods(&[("10.42.0.5", "one", true, false), ("10.42.1.7", "two", true, false)]));
    let script = render::difference(&config, &old, &new, &render::shapes(&old));
    assert_eq!(
        script,
        "delete element ip sampan ep_2 { 10.43.0.80 . tcp . 80 . 1 }\n\
         add element ip sampan ep_2 { 10.43.0.80 . tcp . 80 . 1 : 10.42.1.7 . 8080 }\n"
    );
    assert_eq!(render::difference(&config, &old, &old, &render::shapes(&old)), "");
}

#[test]
fn udp_clients_of_lost_endpoints_are_forgotten() {
    let front = Front { addr: "10.43.0.10".parse().unwrap(), protocol: Protocol::Udp, port: 53 };
    let endpoint = |last| Endpoint { addr: std::net::IpAddr::from([10, 42, 0, last]), port: 53 };
    let with = |endpoints: Vec<Endpoint>| {
        let target = if endpoints.is_empty() { Target::Refuse(Refusal::Reject) } else { Target::Endpoints(endpoints) };
        let frontend = Frontend { target, inside: None, affinity: None, masquerade: false, allowed: vec![] };
        Table { frontends: [(front, frontend)].into(), ..Table::default() }
    };
    let (none, one, other) = (with(vec![]), with(vec![endpoint(1)]), with(vec![endpoint(2)]));
    assert_eq!(one.stale_after(&none), [Stale { front, endpoint: None }]);
    assert_eq!(other.stale_after(&one), [Stale { front, endpoint: Some(endpoint(1)) }]);
    assert_eq!(one.stale_after(&one), []);
}

#[tokio::test]
async fn a_refused_difference_rebuilds_the_table() {
    let mut syncer = Syncer::new(config(), Fake::default());
    let service = web(json!({}));
    assert_eq!(syncer.sync(table(&service, &two())).await.unwrap(), Outcome::Rebuilt);
    assert_eq!(syncer.sync(table(&service, &two())).await.unwrap(), Outcome::Unchanged);
    assert_eq!(syncer.sync(table(&service, &pods(&[]))).await.unwrap(), Outcome::Changed);
    syncer.nft().refuse(1);
    syncer.nft().take();
    assert_eq!(syncer.sync(table(&service, &two())).await.unwrap(), Outcome::Rebuilt);
    assert!(syncer.nft().take()[0].starts_with("table ip sampan\ndelete table ip sampan\n"));
    syncer.nft().refuse(2);
    assert!(syncer.sync(table(&service, &pods(&[]))).await.is_err());
    assert_eq!(syncer.sync(table(&service, &two())).await.unwrap(), Outcome::Rebuilt);
}

/// Answers every connection with the address it came from and its own name.
fn serve(ns: &Netns, addr: &str, name: &'static str) {
    let listener = ns.run(|| TcpListener::bind(addr).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            let peer = stream.peer_addr().unwrap().ip();
            let _ = write!(stream, "{name} {peer}");
        }
    });
}

fn ask(ns: &Netns, addr: &str) -> std::io::Result<String> {
    ns.run(|| {
        let mut stream = TcpStream::connect_timeout(&addr.parse().unwrap(), Duration::from_secs(1))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    })
}

/// A node, two pods on its bridge, and a client outside the cluster.
fn node() -> (Netns, [Netns; 2], Netns) {
    let (node, a, b, client) = (Netns::new("node"), Netns::new("a"), Netns::new("b"), Netns::new("client"));
    let n = &node.0;
    sh(&format!(
        "ip -n {n} link add br0 type bridge; ip -n {n} link set br0 up; ip -n {n} addr add 10.42.0.1/24 dev br0
         ip netns exec {n} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables'
         ip -n {n} link add v3 type veth peer name eth0 netns {c}
         ip -n {n} addr add 10.99.0.1/24 dev v3; ip -n {n} link set v3 up; ip -n {n} route add default via 10.99.0.2
         ip -n {c} addr add 10.99.0.2/24 dev eth0; ip -n {c} link set eth0 up; ip -n {c} route add default via 10.99.0.1",
        c = client.0
    ));
    for (pod, addr) in [(&a, 5), (&b, 6)] {
        sh(&format!(
            "ip -n {n} link add v{addr} type veth peer name eth0 netns {p}
             ip -n {n} link set v{addr} master br0 up; bridge -n {n} link set dev v{addr} hairpin on
             ip -n {p} addr add 10.42.0.{addr}/24 dev eth0; ip -n {p} link set eth0 up
             ip -n {p} route add default via 10.42.0.1",
            p = pod.0
        ));
    }
    (node, [a, b], client)
}

#[tokio::test]
async fn connections_reach_endpoints_through_real_rules() {
    if !root() {
        return;
    }
    let (node, [a, b], client) = node();
    serve(&a, "10.42.0.5:8080", "a");
    serve(&b, "10.42.0.6:8080", "b");
    let mut syncer = Syncer::new(config(), Kernel::in_netns(node.path()));
    let both = pods(&[("10.42.0.5", "one", true, false), ("10.42.0.6", "one", true, false)]);
    let ports = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
    let open = web(json!({"type": "LoadBalancer", "ports": ports, "externalIPs": ["192.0.2.7"]}));
    assert_eq!(syncer.sync(table(&open, &both)).await.unwrap(), Outcome::Rebuilt);

    // Spread, with the client's address kept inside the cluster.
    let mut seen: Vec<String> = (0..40).map(|_| ask(&b, "10.43.0.80:80").unwrap()).collect();
    seen.sort();
    seen.dedup();
    // The second is the hairpin: the pod itself, seen from the bridge.
    assert_eq!(seen, ["a 10.42.0.6", "b 10.42.0.1"]);
    // From the node, and from outside: by node port, external address, balancer.
    ask(&node, "10.43.0.80:80").unwrap();
    for addr in ["10.99.0.1:30080", "192.0.2.7:80", "10.99.9.9:80"] {
        assert!(ask(&client, addr).unwrap().ends_with("10.42.0.1"));
        ask(&a, addr).unwrap();
        ask(&node, addr).unwrap();
    }

    // One endpoint goes: at once nothing reaches it.
    let one = pods(&[("10.42.0.5", "one", true, false)]);
    assert_eq!(syncer.sync(table(&open, &one)).await.unwrap(), Outcome::Changed);
    for _ in 0..10 {
        assert!(ask(&b, "10.43.0.80:80").unwrap().starts_with('a'));
    }
    // None left: refused, not silent.
    assert_eq!(syncer.sync(table(&open, &pods(&[]))).await.unwrap(), Outcome::Changed);
    for (from, addr) in [(&b, "10.43.0.80:80"), (&node, "10.43.0.80:80"), (&client, "10.99.0.1:30080")] {
        assert_eq!(ask(from, addr).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }

    // Affinity: a client stays, also when another endpoint comes.
    let sticky = web(json!({"sessionAffinity": "ClientIP"}));
    assert_eq!(syncer.sync(table(&sticky, &one)).await.unwrap(), Outcome::Changed);
    assert!(ask(&b, "10.43.0.80:80").unwrap().starts_with('a'));
    assert_eq!(syncer.sync(table(&sticky, &both)).await.unwrap(), Outcome::Changed);
    for _ in 0..20 {
        assert!(ask(&b, "10.43.0.80:80").unwrap().starts_with('a'));
    }
    let other = pods(&[("10.42.0.6", "one", true, false)]);
    assert_eq!(syncer.sync(table(&sticky, &other)).await.unwrap(), Outcome::Changed);
    assert!(ask(&a, "10.43.0.80:80").unwrap().starts_with('b'));

    // External traffic kept local keeps the client's address; source ranges hold.
    let local = web(json!({"type": "LoadBalancer", "ports": ports, "externalTrafficPolicy": "Local",
        "loadBalancerSourceRanges": ["10.99.0.3/32", "10.42.0.0/16", "10.42.0.0/24"]}));
    assert_eq!(syncer.sync(table(&local, &both)).await.unwrap(), Outcome::Changed);
    assert!(ask(&client, "10.99.0.1:30080").unwrap().ends_with("10.99.0.2"));
    assert!(ask(&client, "10.99.9.9:80").is_err());
    assert!(ask(&a, "10.99.9.9:80").is_ok());

    // Somebody deletes the table: the next difference heals it.
    sh(&format!("ip netns exec {} nft delete table ip sampan", node.0));
    assert_eq!(syncer.sync(table(&sticky, &both)).await.unwrap(), Outcome::Rebuilt);
    ask(&a, "10.43.0.80:80").unwrap();
    syncer.remove().await.unwrap();
    assert_eq!(sh(&format!("ip netns exec {} nft list tables", node.0)), "");
}

#[tokio::test]
async fn the_second_family_gets_a_table_of_its_own() {
    if !root() {
        return;
    }
    let node = Netns::new("six");
    let mut service = web(json!({"clusterIPs": ["10.43.0.80", "fd43::80"], "sessionAffinity": "ClientIP"}));
    service.metadata.name = Some("web".into());
    let mut six = pods(&[("fd42::5", "one", true, false)]);
    six.address_type = "IPv6".into();
    let mut syncer = Syncer::new(config(), Kernel::in_netns(node.path()));
    let slices = [two(), six];
    syncer.sync(Table::desired(&config(), [&service], &slices)).await.unwrap();
    service.spec.as_mut().unwrap().session_affinity = None;
    syncer.sync(Table::desired(&config(), [&service], &slices)).await.unwrap();
    let rules = sh(&format!("ip netns exec {} nft list table ip6 sampan", node.0));
    assert!(rules.contains("fd43::80 . tcp . 80 . 0 : fd42::5 . 8080"), "{rules}");
}

/// Answers every datagram with its own name.
fn serve_udp(ns: &Netns, addr: &str, name: &'static str) {
    let socket = ns.run(|| UdpSocket::bind(addr).unwrap());
    std::thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 16]) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
}

#[tokio::test]
async fn a_udp_client_that_keeps_its_port_moves_to_the_new_endpoint() {
    let tools = std::process::Command::new("conntrack").arg("--version").output();
    if !root() || tools.is_err() {
        return;
    }
    let (node, [a, b], client) = node();
    serve_udp(&a, "10.42.0.5:5353", "a");
    serve_udp(&b, "10.42.0.6:5353", "b");
    let front = |addr: [u8; 4]| Front { addr: addr.into(), protocol: Protocol::Udp, port: 53 };
    let led_to = |last: u8| {
        let mut table = Table::default();
        let addr = std::net::IpAddr::from([10, 42, 0, last]);
        table.serve(front([10, 43, 0, 10]), Endpoint { addr, port: 5353 });
        table
    };
    let mut syncer = Syncer::new(config(), Kernel::in_netns(node.path()));
    let socket = client.run(|| UdpSocket::bind("10.99.0.2:0").unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    for (last, name) in [(5, "a"), (6, "b"), (5, "a")] {
        syncer.sync(led_to(last)).await.unwrap();
        socket.send_to(b"?", "10.43.0.10:53").unwrap();
        let mut said = [0; 16];
        let (size, _) = socket.recv_from(&mut said).unwrap();
        assert_eq!(&said[..size], name.as_bytes());
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn ten_thousand_services() {
    let node = Netns::new("many");
    let of = |changed: u8| {
        let mut table = Table::default();
        for n in 0..10_000_u16 {
            let [high, low] = n.to_be_bytes();
            let front = Front { addr: [10, 43, high, low].into(), protocol: Protocol::Tcp, port: 80 };
            table.serve(front, Endpoint { addr: [10, 42, 0, 1].into(), port: 80 });
            let last = if n == 5000 { changed } else { 3 };
            let endpoints = [1, 2, last].map(|l| Endpoint { addr: [10, 42, high, l].into(), port: 80 });
            if let Some(frontend) = table.frontends.get_mut(&front) {
                frontend.target = Target::Endpoints(endpoints.into());
            }
        }
        table
    };
    let mut syncer = Syncer::new(config(), Kernel::in_netns(node.path()));
    for changed in 3..9 {
        let table = of(changed);
        let start = std::time::Instant::now();
        let outcome = syncer.sync(table).await.unwrap();
        println!("{outcome:?} {:?}", start.elapsed());
    }
}
