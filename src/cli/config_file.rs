//! `/etc/sampan/config.yaml` and `config.yaml.d/*.yaml`: flags by their names, as k3s reads them.
//!
//! Later files win; a list gives a flag several times; `true` sets a switch. Flags on the command
//! line come after those of the files and so win.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_yaml::Value;

/// Where the file is when nobody says otherwise.
pub const DEFAULT: &str = "/etc/sampan/config.yaml";

/// The arguments with those of the configuration files put in after the command's name.
///
/// # Errors
/// A file that cannot be read or is not a map of flags.
pub fn arguments(given: Vec<String>) -> Result<Vec<String>> {
    let Some(command) = given.get(1).filter(|c| matches!(c.as_str(), "server" | "agent")) else { return Ok(given) };
    let (path, explicit) = path_of(&given);
    let mut values: BTreeMap<String, Value> = BTreeMap::new();
    for file in files(&path, explicit)? {
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let map: Option<BTreeMap<String, Value>> = serde_yaml::from_str(&text)
            .with_context(|| format!("{} is not a YAML map of flags and values", file.display()))?;
        values.extend(map.unwrap_or_default());
    }
    let mut all = vec![given[0].clone(), command.clone()];
    for (flag, value) in &values {
        push(&mut all, flag, value).with_context(|| format!("the value of {flag:?} in the configuration file"))?;
    }
    all.extend(given.into_iter().skip(2));
    Ok(all)
}

fn path_of(given: &[String]) -> (PathBuf, bool) {
    let mut it = given.iter();
    while let Some(a) = it.next() {
        if let Some(v) = a.strip_prefix("--config=") {
            return (v.into(), true);
        }
        if matches!(a.as_str(), "--config" | "-c")
            && let Some(v) = it.next()
        {
            return (v.into(), true);
        }
    }
    match std::env::var("SAMPAN_CONFIG") {
        Ok(v) if !v.is_empty() => (v.into(), true),
        _ => (DEFAULT.into(), false),
    }
}

fn files(path: &Path, explicit: bool) -> Result<Vec<PathBuf>> {
    let mut list = Vec::new();
    if path.exists() {
        list.push(path.to_owned());
    } else if explicit {
        bail!("the configuration file {} does not exist", path.display());
    }
    let directory = PathBuf::from(format!("{}.d", path.display()));
    if let Ok(entries) = std::fs::read_dir(&directory) {
        let mut more: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
            .collect();
        more.sort();
        list.extend(more);
    }
    Ok(list)
}

fn push(all: &mut Vec<String>, flag: &str, value: &Value) -> Result<()> {
    let flag = flag.trim_start_matches("--");
    match value {
        Value::Null => {}
        Value::Bool(true) => all.push(format!("--{flag}")),
        Value::Bool(false) => {}
        Value::Number(n) => all.push(format!("--{flag}={n}")),
        Value::String(s) => all.push(format!("--{flag}={s}")),
        Value::Sequence(list) => {
            for v in list {
                push(all, flag, v)?;
            }
        }
        _ => bail!("must be a string, a number, true, false or a list of those"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str) -> Result<Vec<String>> {
        let dir = std::env::temp_dir().join(format!("sampan-config-{}-{:p}", std::process::id(), &text));
        std::fs::create_dir_all(&dir)?;
        let file = dir.join("config.yaml");
        std::fs::write(&file, text)?;
        let given = ["sampan", "server", "--config", &file.display().to_string(), "--https-listen-port=1"];
        let result = arguments(given.iter().map(|s| (*s).to_owned()).collect());
        std::fs::remove_dir_all(&dir)?;
        result
    }

    #[test]
    fn values_become_flags_before_those_of_the_command_line() -> Result<()> {
        let all = with_file("tls-san: [a, b]\nhttps-listen-port: 2\ndisable-agent: true\ndebug: false\n")?;
        assert_eq!(all[2..6], ["--disable-agent", "--https-listen-port=2", "--tls-san=a", "--tls-san=b"]);
        assert_eq!(all.last().map(String::as_str), Some("--https-listen-port=1"));
        Ok(())
    }

    #[test]
    fn a_file_that_is_no_map_is_an_error_that_names_it() {
        let e = with_file("- a\n- b\n").map_err(|e| format!("{e:#}"));
        assert!(e.is_err_and(|e| e.contains("config.yaml is not a YAML map")));
    }
}
