//! The flags of the audit log, with upstream's names.

use std::path::{Path, PathBuf};

use server::audit::{Config, Rotation};

/// See the module.
#[derive(Debug, clap::Args)]
// Part of the flags of the server, whose group has the same name.
#[group(skip)]
pub struct Flags {
    /// What is audited, an audit.k8s.io/v1 Policy [default: who changes what and who reads what, without what idles].
    #[arg(long, env = "SAMPAN_AUDIT_POLICY_FILE", value_parser = super::absolute)]
    audit_policy_file: Option<PathBuf>,
    /// The audit log; - for standard output, empty for none [default: <data-dir>/server/logs/audit.log].
    #[arg(long, env = "SAMPAN_AUDIT_LOG_PATH")]
    audit_log_path: Option<String>,
    /// The size in MiB at which an audit log file is set aside.
    #[arg(long, env = "SAMPAN_AUDIT_LOG_MAXSIZE", default_value_t = Rotation::default().max_size)]
    audit_log_maxsize: u64,
    /// How many old audit log files are kept; 0 for all.
    #[arg(long, env = "SAMPAN_AUDIT_LOG_MAXBACKUP", default_value_t = Rotation::default().max_backup)]
    audit_log_maxbackup: usize,
    /// How many days old audit log files are kept; 0 for ever.
    #[arg(long, env = "SAMPAN_AUDIT_LOG_MAXAGE", default_value_t = Rotation::default().max_age)]
    audit_log_maxage: u64,
}

impl Flags {
    /// What they say; `data` is the server's directory.
    pub fn config(&self, data: &Path) -> Config {
        let log_path = match self.audit_log_path.as_deref() {
            None => Some(data.join("logs").join("audit.log")),
            Some("") => None,
            Some(path) => Some(path.into()),
        };
        Config {
            policy_file: self.audit_policy_file.clone(),
            log_path,
            rotation: Rotation {
                max_size: self.audit_log_maxsize,
                max_age: self.audit_log_maxage,
                max_backup: self.audit_log_maxbackup,
            },
        }
    }
}
