//! The `loopback` plugin, which containerd calls for every pod: brings `lo` up in the pod's
//! network namespace (<https://www.cni.dev/plugins/current/main/loopback/>).

use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::links::Links;

/// The plugin's name.
pub const LOOPBACK: &str = "loopback";

/// The program behind the name: reads what CNI passes, prints its result.
pub fn loopback_main() -> ExitCode {
    let mut conf = String::new();
    let parsed = io::stdin().read_to_string(&mut conf).ok().and_then(|_| serde_json::from_str::<Value>(&conf).ok());
    let version = parsed.as_ref().and_then(|c| c["cniVersion"].as_str()).unwrap_or("1.0.0").to_owned();
    let netns = env::var("CNI_NETNS").unwrap_or_default();
    let printed = match env::var("CNI_COMMAND").as_deref() {
        Ok("VERSION") => json!({"cniVersion": version, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0"]}),
        Ok("ADD" | "CHECK") => match up(&netns) {
            Ok(()) => json!({
                "cniVersion": version,
                "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": netns}],
                "ips": [{"version": "4", "interface": 0, "address": "127.0.0.1/8"}],
            }),
            Err(e) => {
                println!("{}", json!({"cniVersion": version, "code": 999, "msg": format!("lo in {netns}: {e}")}));
                return ExitCode::FAILURE;
            }
        },
        // The namespace takes its loopback along.
        _ => return ExitCode::SUCCESS,
    };
    println!("{printed}");
    ExitCode::SUCCESS
}

fn up(netns: &str) -> Result<(), Box<dyn std::error::Error>> {
    // This process has one thread and ends after this.
    nix::sched::setns(File::open(netns)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let links = Links::open()?;
        let lo = links.need("lo").await?;
        links.up(lo.index).await?;
        Ok(())
    })
}
