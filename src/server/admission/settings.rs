//! Which plugins run, and what their configuration says: `--enable-admission-plugins`,
//! `--disable-admission-plugins`, `--admission-control-config-file`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{event_rate_limit, pod_node_selector, pod_security, pod_tolerations};

/// Upstream's plugins: a name, and whether it runs unless it is disabled.
const KNOWN: [(&str, bool); 36] = [
    ("AlwaysAdmit", false),
    ("NamespaceAutoProvision", false),
    ("NamespaceLifecycle", true),
    ("NamespaceExists", false),
    ("LimitPodHardAntiAffinityTopology", false),
    ("LimitRanger", true),
    ("ServiceAccount", true),
    // Off upstream, and on wherever a cluster is set up with care.
    ("NodeRestriction", true),
    ("TaintNodesByCondition", true),
    ("AlwaysPullImages", false),
    ("ImagePolicyWebhook", false),
    ("PodSecurity", true),
    ("PodNodeSelector", false),
    ("Priority", true),
    ("DefaultTolerationSeconds", true),
    ("PodTolerationRestriction", false),
    ("EventRateLimit", false),
    ("ExtendedResourceToleration", false),
    ("DefaultStorageClass", true),
    ("StorageObjectInUseProtection", true),
    ("OwnerReferencesPermissionEnforcement", false),
    ("PersistentVolumeClaimResize", true),
    ("RuntimeClass", true),
    ("CertificateApproval", true),
    ("CertificateSigning", true),
    ("ClusterTrustBundleAttest", true),
    ("CertificateSubjectRestriction", true),
    ("DefaultIngressClass", true),
    ("DenyServiceExternalIPs", false),
    ("PodTopologyLabels", true),
    ("MutatingAdmissionPolicy", true),
    ("MutatingAdmissionWebhook", true),
    ("ValidatingAdmissionPolicy", true),
    ("ValidatingAdmissionWebhook", true),
    ("ResourceQuota", true),
    ("AlwaysDeny", false),
];

/// The plugin of upstream that cannot be asked for here.
const ABSENT: &str = "ImagePolicyWebhook";

/// What one plugin does by three of upstream's names.
const CERTIFICATES: [&str; 3] = ["CertificateApproval", "CertificateSigning", "CertificateSubjectRestriction"];

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that upstream does not have.
    #[error("{flag} plugin {name:?} is unknown")]
    Unknown {
        /// Without the dashes.
        flag: &'static str,
        /// The plugin.
        name: String,
    },
    /// Named by both flags.
    #[error("{0:?} in enable-admission-plugins and disable-admission-plugins overlapped")]
    Overlap(Vec<String>),
    /// Not here.
    #[error("the admission plugin {0} is not served by this version of sampan")]
    Absent(String),
    /// Some, but not all, of what belongs together.
    #[error("{} are one plugin here: disable all or none", CERTIFICATES.join(", "))]
    Certificates,
    /// A plugin that does nothing without configuration.
    #[error("the admission plugin {0} needs a configuration; name it in --admission-control-config-file")]
    Unconfigured(&'static str),
    /// A file that is not readable.
    #[error("cannot read {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: std::io::Error,
    },
    /// A file that says something wrong.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What.
        why: String,
    },
}

/// Which plugins run and how.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    enabled: Vec<String>,
    disabled: Vec<String>,
    /// Of PodSecurity.
    pub pod_security: pod_security::Configuration,
    /// Of EventRateLimit.
    pub event_rate_limit: event_rate_limit::Configuration,
    /// Of PodNodeSelector.
    pub pod_node_selector: pod_node_selector::Configuration,
    /// Of PodTolerationRestriction.
    pub pod_tolerations: pod_tolerations::Configuration,
}

impl Settings {
    /// The settings of flags and of the file that the third one names.
    ///
    /// # Errors
    /// What cannot be used.
    pub fn new(enabled: &[String], disabled: &[String], file: Option<&Path>) -> Result<Settings, Error> {
        for (flag, names) in [("enable-admission-plugins", enabled), ("disable-admission-plugins", disabled)] {
            if let Some(name) = names.iter().find(|n| !KNOWN.iter().any(|(k, _)| k == n)) {
                return Err(Error::Unknown { flag, name: name.clone() });
            }
        }
        let both: Vec<String> = enabled.iter().filter(|n| disabled.contains(n)).cloned().collect();
        if !both.is_empty() {
            return Err(Error::Overlap(both));
        }
        if let Some(name) = enabled.iter().find(|n| *n == ABSENT) {
            return Err(Error::Absent(name.clone()));
        }
        let off = CERTIFICATES.iter().filter(|n| disabled.iter().any(|d| d == *n)).count();
        if off != 0 && off != CERTIFICATES.len() {
            return Err(Error::Certificates);
        }
        let mut settings = Settings { enabled: enabled.to_vec(), disabled: disabled.to_vec(), ..Default::default() };
        let configured = file.map(configurations).transpose()?.unwrap_or_default();
        let null = (file.map(Path::to_owned).unwrap_or_default(), Value::Null);
        let of = |name: &str| configured.get(name).unwrap_or(&null);
        let (path, v) = of("PodSecurity");
        settings.pod_security = pod_security::Configuration::parse(v).map_err(|why| content(path, why))?;
        let (path, v) = of("PodNodeSelector");
        settings.pod_node_selector = pod_node_selector::Configuration::parse(v).map_err(|why| content(path, why))?;
        let (path, v) = of("PodTolerationRestriction");
        settings.pod_tolerations = pod_tolerations::Configuration::parse(v).map_err(|why| content(path, why))?;
        if settings.runs("EventRateLimit") {
            let (path, v) = configured.get("EventRateLimit").ok_or(Error::Unconfigured("EventRateLimit"))?;
            settings.event_rate_limit = event_rate_limit::Configuration::parse(v).map_err(|why| content(path, why))?;
        }
        Ok(settings)
    }

    /// Whether a plugin runs.
    pub fn runs(&self, name: &str) -> bool {
        let named = |list: &[String]| list.iter().any(|n| n == name);
        let default = KNOWN.iter().any(|(n, on)| *n == name && *on);
        named(&self.enabled) || (default && !named(&self.disabled))
    }
}

fn content(path: &Path, why: impl Into<String>) -> Error {
    Error::Content { path: path.to_owned(), why: why.into() }
}

fn read(path: &Path) -> Result<Value, Error> {
    let text = std::fs::read(path).map_err(|why| Error::File { path: path.to_owned(), why })?;
    api::codec::parse_tree(&text, true).map_err(|s| content(path, s.message))
}

/// The configuration of each plugin that an `AdmissionConfiguration` names, and the file it stands in.
fn configurations(path: &Path) -> Result<BTreeMap<String, (PathBuf, Value)>, Error> {
    let v = read(path)?;
    if v["kind"] != "AdmissionConfiguration" {
        return Err(content(path, "the kind must be AdmissionConfiguration"));
    }
    let mut all = BTreeMap::new();
    for plugin in v["plugins"].as_array().into_iter().flatten() {
        let name = plugin["name"].as_str().unwrap_or_default().to_owned();
        let configuration = match plugin["path"].as_str().filter(|p| !p.is_empty()) {
            None => (path.to_owned(), plugin["configuration"].clone()),
            // A path is seen from where the file that names it stands.
            Some(other) => {
                let other = path.parent().unwrap_or(Path::new("")).join(other);
                let v = read(&other)?;
                (other, v)
            }
        };
        all.insert(name, configuration);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn flags_name_plugins_that_are_known() {
        let s = Settings::new(&names(&["AlwaysPullImages"]), &names(&["LimitRanger"]), None).unwrap();
        assert!(s.runs("AlwaysPullImages") && s.runs("PodSecurity"));
        assert!(!s.runs("LimitRanger") && !s.runs("AlwaysDeny"));
        let cases = [
            (&["X"][..], &[][..], "enable-admission-plugins plugin \"X\" is unknown"),
            (&[], &["Y"], "disable-admission-plugins plugin \"Y\" is unknown"),
            (
                &["Priority"],
                &["Priority"],
                "[\"Priority\"] in enable-admission-plugins and disable-admission-plugins overlapped",
            ),
            (
                &["ImagePolicyWebhook"],
                &[],
                "the admission plugin ImagePolicyWebhook is not served by this version of sampan",
            ),
            (
                &["EventRateLimit"],
                &[],
                "the admission plugin EventRateLimit needs a configuration; name it in --admission-control-config-file",
            ),
        ];
        for (on, off, wanted) in cases {
            assert_eq!(Settings::new(&names(on), &names(off), None).unwrap_err().to_string(), wanted);
        }
    }

    #[test]
    fn a_file_configures_plugins_by_itself_or_by_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("admission.yaml");
        std::fs::write(dir.path().join("limits.yaml"), "limits:\n- type: Server\n  qps: 5\n  burst: 10\n").unwrap();
        let text = "kind: AdmissionConfiguration\nplugins:\n- name: EventRateLimit\n  path: limits.yaml\n- name: PodSecurity\n  configuration:\n    kind: PodSecurityConfiguration\n    defaults:\n      enforce: baseline\n";
        std::fs::write(&file, text).unwrap();
        assert!(Settings::new(&names(&["EventRateLimit"]), &[], Some(&file)).is_ok());
        std::fs::write(&file, text.replace("baseline", "strict")).unwrap();
        let e = Settings::new(&[], &[], Some(&file)).unwrap_err().to_string();
        assert!(
            e.ends_with(
                "admission.yaml: defaults.enforce: \"strict\": must be one of privileged, baseline, restricted"
            ),
            "{e}"
        );
    }
}
