//! Tests of the module above.

use super::*;
use crate::Config;
use crate::overlay::Network;
use crate::testing::{Netns, root, sh};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[test]
fn addresses_are_kept_and_rest_before_reuse() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Ipam::open(dir.path(), "10.42.0.0/29".parse().unwrap()).unwrap();
    let ipam = open();
    assert_eq!(ipam.take("a").unwrap().to_string(), "10.42.0.2");
    assert_eq!(ipam.take("b").unwrap().to_string(), "10.42.0.3");
    assert_eq!(open().take("a").unwrap().to_string(), "10.42.0.2");
    ipam.free("a").unwrap();
    ipam.free("a").unwrap();
    let rest: Vec<String> = ["c", "d", "e", "f"].map(|o| open().take(o).unwrap().to_string()).into();
    assert_eq!(rest, ["10.42.0.4", "10.42.0.5", "10.42.0.6", "10.42.0.2"]);
    assert!(ipam.take("g").is_err());
}

fn plugin(command: &str, conf: &str, id: &str, netns: &str) -> Result<Option<serde_json::Value>, Failure> {
    let var = |name: &str| {
        let value = match name {
            "CNI_COMMAND" => command,
            "CNI_CONTAINERID" => id,
            "CNI_NETNS" => netns,
            "CNI_IFNAME" => "eth0",
            _ => return None,
        };
        Some(value.to_owned())
    };
    super::plugin::run(var, conf)
}

#[test]
fn the_plugin_minds_versions_and_its_environment() {
    let said = plugin("VERSION", r#"{"cniVersion": "0.4.0"}"#, "", "").unwrap().unwrap();
    assert_eq!(said["cniVersion"], "0.4.0");
    assert!(said["supportedVersions"].as_array().unwrap().iter().any(|v| v == "1.0.0"));
    assert_eq!(plugin("ADD", r#"{"cniVersion": "9.0.0"}"#, "c", "/x").unwrap_err().code, 1);
    assert_eq!(plugin("ADD", "{}", "", "/x").unwrap_err().code, 4);
    assert_eq!(plugin("ADD", "nonsense", "c", "/x").unwrap_err().code, 6);
    assert_eq!(plugin("ADD", r#"{"socket": "/nowhere"}"#, "c", "/x").unwrap_err().code, 11);
}

#[test]
fn pods_get_links_that_work_and_lose_them_again() {
    if !root() {
        return;
    }
    let (node, pods) = (Netns::new("host"), [Netns::new("p1"), Netns::new("p2")]);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("cni.sock");
    let conf = serde_json::json!({"cniVersion": "0.4.0", "socket": socket}).to_string();
    let config = Config::new("one", [10, 99, 0, 1].into(), "10.42.1.0/24".parse().unwrap());
    let paths = [pods[0].path(), pods[1].path()];
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let network = Network::start(config.clone()).await.unwrap();
            let server = Arc::new(CniServer::new(config, network.mtu(), &dir.path().join("ips")).unwrap());
            let cancel = CancellationToken::new();
            let listener = tokio::net::UnixListener::bind(&socket).unwrap();
            let serving = tokio::spawn(server.serve(listener, cancel.clone()));
            let call = async |command: &'static str, at: usize| {
                let (conf, path) = (conf.clone(), paths[at].clone());
                tokio::task::spawn_blocking(move || plugin(command, &conf, &format!("box{at}"), &path)).await.unwrap()
            };
            let address = |result: Option<serde_json::Value>| {
                let ip = result.unwrap()["ips"][0].clone();
                assert_eq!(ip["version"], "4");
                ip["address"].as_str().unwrap().to_owned()
            };
            assert_eq!(address(call("ADD", 0).await.unwrap()), "10.42.1.2/24");
            assert_eq!(address(call("ADD", 1).await.unwrap()), "10.42.1.3/24");
            // Asked again, the sandbox keeps its address; made again, it gets a rested one.
            assert_eq!(address(call("ADD", 1).await.unwrap()), "10.42.1.3/24");
            call("DEL", 1).await.unwrap();
            assert!(call("CHECK", 1).await.is_err());
            assert_eq!(address(call("ADD", 1).await.unwrap()), "10.42.1.4/24");
            call("CHECK", 1).await.unwrap();
            cancel.cancel();
            serving.await.unwrap();
        });
    });
    let there = sh(&format!("ip -n {} -4 -o addr show dev eth0; ip -n {0} route", pods[0].0));
    assert!(there.contains("10.42.1.2/24") && there.contains("default via 10.42.1.1"), "{there}");
    let ports = sh(&format!("bridge -n {} -d link", node.0));
    assert_eq!(ports.matches("hairpin on").count(), 2, "{ports}");

    // Pod to pod over the bridge.
    let there = pods[0].run(|| std::net::TcpListener::bind("10.42.1.2:80").unwrap());
    let second = std::time::Duration::from_secs(1);
    pods[1].run(|| std::net::TcpStream::connect_timeout(&there.local_addr().unwrap(), second)).unwrap();

    // A new server, as after a restart, deletes what the old one made; twice.
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = Config::new("one", [10, 99, 0, 1].into(), "10.42.1.0/24".parse().unwrap());
            let server = CniServer::new(config, 1450, &dir.path().join("ips")).unwrap();
            let mut wish = Request { command: "DEL".into(), ifname: "eth0".into(), ..Request::default() };
            for id in ["box0", "box1", "box0", "never"] {
                wish.container_id = id.into();
                assert!(matches!(server.handle(&wish).await, Response::Done(None)));
            }
            // A sandbox that is not there: an error, and nothing left behind.
            let wish = Request { command: "ADD".into(), netns: "/run/netns/none".into(), ..wish };
            assert!(matches!(server.handle(&wish).await, Response::Failed(_)));
        });
    });
    let left = sh(&format!("ip -n {} -o link", node.0));
    assert!(!left.contains("veth"), "{left}");
    assert_eq!(std::fs::read_dir(dir.path().join("ips")).unwrap().count(), 1);
}
