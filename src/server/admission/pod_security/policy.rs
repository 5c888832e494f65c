//! Levels, versions and the labels of a namespace that name them
//! (<https://kubernetes.io/docs/concepts/security/pod-security-admission/>).

use api::field::{ErrorList, FieldError};
use serde_json::Value;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How much a policy forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing.
    Privileged,
    /// Known ways to gain privileges.
    Baseline,
    /// What hardened pods do not need.
    Restricted,
}

impl Level {
    fn parse(s: &str) -> Result<Level, &'static str> {
        match s {
            "privileged" => Ok(Level::Privileged),
            "baseline" => Ok(Level::Baseline),
            "restricted" => Ok(Level::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

/// The minor version of a policy; [`LATEST`] is newer than all.
pub type Minor = u32;

/// `latest`
pub const LATEST: Minor = Minor::MAX;

fn parse_version(s: &str) -> Result<Minor, &'static str> {
    const WRONG: &str = "must be \"latest\" or \"v1.x\"";
    if s == "latest" {
        return Ok(LATEST);
    }
    let minor = s.strip_prefix("v1.").ok_or(WRONG)?;
    let canonical = minor == "0" || !minor.starts_with(['0', '+']);
    minor.parse().ok().filter(|_| canonical).ok_or(WRONG)
}

/// A level as of a version: `restricted:v1.35`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LevelVersion {
    /// The level.
    pub level: Level,
    /// The version.
    pub version: Minor,
}

impl std::fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            LATEST => write!(f, "{level}:latest"),
            minor => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What happens with pods that break a level: they are refused, noted, warned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Refused.
    pub enforce: LevelVersion,
    /// Noted in the audit log.
    pub audit: LevelVersion,
    /// Warned of.
    pub warn: LevelVersion,
}

impl Default for Policy {
    fn default() -> Policy {
        let open = LevelVersion { level: Level::Privileged, version: LATEST };
        Policy { enforce: open, audit: open, warn: open }
    }
}

/// The three modes, as labels and configuration fields name them.
const MODES: [&str; 3] = ["enforce", "audit", "warn"];

impl Policy {
    /// Whether nothing at all is looked at.
    pub fn is_open(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|l| l.level == Level::Privileged)
    }

    fn mode(&mut self, name: &str) -> &mut LevelVersion {
        match name {
            "enforce" => &mut self.enforce,
            "audit" => &mut self.audit,
            _ => &mut self.warn,
        }
    }

    /// The policy that labels make of the default one, and what is wrong with them. A bad level
    /// enforces the strictest and audits and warns of nothing.
    pub fn of_labels(labels: &Value, default: Policy) -> (Policy, ErrorList) {
        let mut policy = default;
        let mut errors = ErrorList::new();
        let label = |name: &str| labels[format!("{PREFIX}{name}")].as_str();
        let wrong = |name: &str, value: &str, detail: &str| {
            FieldError::invalid(format!("metadata.labels[{PREFIX}{name}]"), value, detail)
        };
        let mut enforced = false;
        for mode in MODES {
            if let Some(given) = label(mode) {
                let level = Level::parse(given);
                enforced |= mode == "enforce" && level.is_ok();
                let fallback = if mode == "enforce" { Level::Restricted } else { Level::Privileged };
                errors.extend(level.err().map(|e| wrong(mode, given, e)));
                policy.mode(mode).level = level.unwrap_or(fallback);
            }
            let name = format!("{mode}-version");
            if let Some(given) = label(&name) {
                let version = parse_version(given);
                errors.extend(version.err().map(|e| wrong(&name, given, e)));
                policy.mode(mode).version = version.unwrap_or(LATEST);
            }
        }
        // Who enforces a level also wants to be warned of it.
        if label("warn").is_none() && enforced && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    /// The defaults of a `PodSecurityConfiguration`.
    ///
    /// # Errors
    /// What is wrong with a level or version.
    pub fn of_defaults(defaults: &Value) -> Result<Policy, String> {
        let mut policy = Policy::default();
        for mode in MODES {
            if let Some(given) = defaults[mode].as_str().filter(|s| !s.is_empty()) {
                policy.mode(mode).level =
                    Level::parse(given).map_err(|e| format!("defaults.{mode}: {given:?}: {e}"))?;
            }
            let name = format!("{mode}-version");
            if let Some(given) = defaults[&name].as_str().filter(|s| !s.is_empty()) {
                policy.mode(mode).version =
                    parse_version(given).map_err(|e| format!("defaults.{name}: {given:?}: {e}"))?;
            }
        }
        Ok(policy)
    }

    /// The modes that labels set and that forbid something, as a warning names them.
    pub fn set_by(&self, labels: &Value) -> String {
        let named = |mode: &str| {
            labels.get(format!("{PREFIX}{mode}")).is_some() || labels.get(format!("{PREFIX}{mode}-version")).is_some()
        };
        let shown: Vec<String> = MODES
            .into_iter()
            .filter(|m| named(m))
            .map(|m| (m, *self.clone().mode(m)))
            .filter(|(_, l)| l.level != Level::Privileged)
            .map(|(m, l)| format!("{m}={l}"))
            .collect();
        shown.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(labels: Value) -> (String, Vec<String>) {
        let (p, errors) = Policy::of_labels(&labels, Policy::default());
        (format!("{} {} {}", p.enforce, p.audit, p.warn), errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn labels_make_a_policy() {
        let cases = [
            (json!({}), "privileged:latest privileged:latest privileged:latest"),
            (
                json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.24"}),
                "baseline:v1.24 privileged:latest baseline:v1.24",
            ),
            (
                json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}),
                "baseline:latest privileged:latest restricted:latest",
            ),
        ];
        for (labels, wanted) in cases {
            assert_eq!(policy(labels), (wanted.to_owned(), vec![]));
        }
    }

    #[test]
    fn bad_labels_are_named() {
        let (p, errors) = policy(json!({
            "pod-security.kubernetes.io/enforce": "x", "pod-security.kubernetes.io/audit-version": "v1.01"}));
        assert_eq!(p, "restricted:latest privileged:latest privileged:latest");
        assert_eq!(
            errors,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \"v1.01\": must be \"latest\" or \"v1.x\"",
            ]
        );
    }
}
