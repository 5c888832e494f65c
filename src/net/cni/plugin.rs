//! The executable's side.

use super::{Failure, Request, Response, SOCKET, VERSIONS};
use serde_json::{Value, json};
use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

/// How long the agent may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs as a CNI plugin: wish from the environment and standard input, result
/// to standard output.
pub fn plugin_main() -> ExitCode {
    let mut conf = String::new();
    let read = io::stdin().read_to_string(&mut conf);
    let outcome = match read {
        Ok(_) => run(|name| env::var(name).ok(), &conf),
        Err(error) => Err(Failure::new(5, error)),
    };
    let (printed, code) = match outcome {
        Ok(printed) => (printed, ExitCode::SUCCESS),
        Err(failure) => {
            let version = version_of(&serde_json::from_str(&conf).unwrap_or_default());
            let text = json!({"cniVersion": version, "code": failure.code, "msg": failure.msg});
            (Some(text), ExitCode::FAILURE)
        }
    };
    if let Some(printed) = printed
        && writeln!(io::stdout(), "{printed}").is_err()
    {
        return ExitCode::FAILURE;
    }
    code
}

fn version_of(conf: &Value) -> String {
    conf["cniVersion"].as_str().unwrap_or("1.0.0").to_owned()
}

pub(super) fn run(var: impl Fn(&str) -> Option<String>, conf: &str) -> Result<Option<Value>, Failure> {
    let need = |name: &str| {
        let value = var(name).filter(|v| !v.is_empty());
        value.ok_or_else(|| Failure::new(4, format!("{name} is not set")))
    };
    let command = need("CNI_COMMAND")?;
    let conf: Value = serde_json::from_str(conf).map_err(|e| Failure::new(6, e))?;
    let version = version_of(&conf);
    if command == "VERSION" {
        return Ok(Some(json!({"cniVersion": version, "supportedVersions": VERSIONS})));
    }
    if !VERSIONS.contains(&version.as_str()) {
        return Err(Failure::new(1, format!("CNI version {version} is not spoken")));
    }
    if !matches!(command.as_str(), "ADD" | "DEL" | "CHECK") {
        return Err(Failure::new(4, format!("CNI_COMMAND {command} is not known")));
    }
    let netns = if command == "DEL" { var("CNI_NETNS").unwrap_or_default() } else { need("CNI_NETNS")? };
    let request =
        Request { container_id: need("CNI_CONTAINERID")?, ifname: need("CNI_IFNAME")?, command, netns, version };
    match ask(conf["socket"].as_str().unwrap_or(SOCKET), &request) {
        Ok(Response::Done(result)) => Ok(result),
        Ok(Response::Failed(failure)) => Err(failure),
        Err(error) => Err(Failure::new(11, format!("the agent does not answer: {error}"))),
    }
}

fn ask(socket: &str, request: &Request) -> io::Result<Response> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
