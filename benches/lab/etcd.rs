//! etcd as a reference, where it is installed (Debian: `etcd-server`), or where
//! `SAMPAN_BENCH_ETCD` says that it is.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`, of which nothing is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// A single etcd with an empty directory.
pub struct Etcd {
    child: Child,
    started: Instant,
    url: String,
    _directory: tempfile::TempDir,
}

/// Where the program is.
pub fn program() -> Option<PathBuf> {
    let candidates = ["/usr/bin/etcd", "/usr/local/bin/etcd"].map(PathBuf::from);
    std::env::var_os("SAMPAN_BENCH_ETCD").map(PathBuf::from).into_iter().chain(candidates).find(|p| p.is_file())
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    listener.expect("a free port").port()
}

impl Etcd {
    pub fn start() -> Option<Etcd> {
        let directory = super::directory();
        let [client, peer] = [free_port(), free_port()].map(|p| format!("http://127.0.0.1:{p}"));
        let child = Command::new(program()?)
            .arg("--data-dir")
            .arg(directory.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Etcd { child, started: Instant::now(), url: client, _directory: directory })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection on which a first write has succeeded, and when that was since the start.
    pub async fn answers(&self) -> (Connection, Duration) {
        while self.started.elapsed() < super::PATIENCE {
            if let Ok(mut connection) = self.connect().await
                && connection.put("first", Vec::new()).await.is_ok()
            {
                return (connection, self.started.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("etcd does not answer");
    }

    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let channel = Endpoint::from_shared(self.url.clone())?.connect().await?;
        Ok(Connection(Grpc::new(channel)))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One client.
pub struct Connection(Grpc<Channel>);

impl Connection {
    pub async fn put(&mut self, key: &str, value: Vec<u8>) -> anyhow::Result<()> {
        self.0.ready().await?;
        let request = tonic::Request::new(PutRequest { key: key.into(), value });
        let codec: ProstCodec<PutRequest, PutResponse> = ProstCodec::default();
        self.0.unary(request, PathAndQuery::from_static("/etcdserverpb.KV/Put"), codec).await?;
        Ok(())
    }
}
