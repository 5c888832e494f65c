//! The flags of the audit log, with upstream's names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use server::audit::truncate::Limits;
use server::audit::webhook::{self, Mode};
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
    #[command(flatten)]
    webhook: WebhookFlags,
}

/// Of the service that events are posted to.
#[derive(Debug, clap::Args)]
#[group(id = "audit-webhook")]
struct WebhookFlags {
    /// A service that audit events are posted to, as a kubeconfig.
    #[arg(long, env = "SAMPAN_AUDIT_WEBHOOK_CONFIG_FILE", value_parser = super::absolute)]
    audit_webhook_config_file: Option<PathBuf>,
    /// Whether requests wait until their events were taken.
    #[arg(long, env = "SAMPAN_AUDIT_WEBHOOK_MODE", value_enum, default_value_t = ModeFlag::Batch)]
    audit_webhook_mode: ModeFlag,
    /// How long after a failure events are first posted again.
    #[arg(long, env = "SAMPAN_AUDIT_WEBHOOK_INITIAL_BACKOFF", default_value = "10s", value_parser = duration)]
    audit_webhook_initial_backoff: Duration,
    /// In batch mode: how many events may wait; more are dropped.
    #[arg(long, env = "SAMPAN_AUDIT_WEBHOOK_BATCH_BUFFER_SIZE", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    audit_webhook_batch_buffer_size: u32,
    /// In batch mode: how many events are posted at once.
    #[arg(long, env = "SAMPAN_AUDIT_WEBHOOK_BATCH_MAX_SIZE", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    audit_webhook_batch_max_size: u32,
    /// In batch mode: how long an event may wait for others.
    #[arg(long, env = "SAMPAN_AUDIT_WEBHOOK_BATCH_MAX_WAIT", default_value = "30s", value_parser = duration)]
    audit_webhook_batch_max_wait: Duration,
    /// In batch mode: whether posts are limited in number.
    #[arg(long, env = "SAMPAN_AUDIT_WEBHOOK_BATCH_THROTTLE_ENABLE", default_value_t = true, action = clap::ArgAction::Set)]
    audit_webhook_batch_throttle_enable: bool,
    /// In batch mode: how many posts there are in a second.
    #[arg(long, env = "SAMPAN_AUDIT_WEBHOOK_BATCH_THROTTLE_QPS", default_value = "10", value_parser = rate)]
    audit_webhook_batch_throttle_qps: f64,
    /// In batch mode: how many posts there may be at once after a pause.
    #[arg(long, env = "SAMPAN_AUDIT_WEBHOOK_BATCH_THROTTLE_BURST", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    audit_webhook_batch_throttle_burst: u32,
    /// Whether events and posts that are too large are made smaller.
    #[arg(long, env = "SAMPAN_AUDIT_WEBHOOK_TRUNCATE_ENABLED")]
    audit_webhook_truncate_enabled: bool,
    /// How many bytes of events are posted at once, when they are made smaller.
    #[arg(long, env = "SAMPAN_AUDIT_WEBHOOK_TRUNCATE_MAX_BATCH_SIZE", default_value_t = 10 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    audit_webhook_truncate_max_batch_size: u32,
    /// How many bytes an event may have: one with more goes without the objects in it, or not at all.
    #[arg(long, env = "SAMPAN_AUDIT_WEBHOOK_TRUNCATE_MAX_EVENT_SIZE", default_value_t = 100 << 10, value_parser = clap::value_parser!(u32).range(1..))]
    audit_webhook_truncate_max_event_size: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ModeFlag {
    /// They do not: events are gathered, and dropped when too many wait.
    Batch,
    /// They do.
    Blocking,
    /// They do, and are refused when their first event was not taken.
    BlockingStrict,
}

fn duration(text: &str) -> Result<Duration, String> {
    let seconds = api::time::go_duration(text).and_then(|s| Duration::try_from_secs_f64(s).ok());
    seconds.ok_or_else(|| "must be a duration such as 30s or 5m".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|r| *r > 0.0 && r.is_finite());
    rate.ok_or_else(|| "must be a positive number".to_owned())
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
            webhook: self.webhook.settings(),
        }
    }
}

impl WebhookFlags {
    fn settings(&self) -> Option<webhook::Settings> {
        let throttle = (self.audit_webhook_batch_throttle_qps, self.audit_webhook_batch_throttle_burst);
        let limits = Limits {
            max_batch_size: self.audit_webhook_truncate_max_batch_size as usize,
            max_event_size: self.audit_webhook_truncate_max_event_size as usize,
        };
        Some(webhook::Settings {
            config_file: self.audit_webhook_config_file.clone()?,
            mode: match self.audit_webhook_mode {
                ModeFlag::Batch => Mode::Batch,
                ModeFlag::Blocking => Mode::Blocking,
                ModeFlag::BlockingStrict => Mode::BlockingStrict,
            },
            initial_backoff: self.audit_webhook_initial_backoff,
            batch: webhook::Batch {
                buffer_size: self.audit_webhook_batch_buffer_size as usize,
                max_size: self.audit_webhook_batch_max_size as usize,
                max_wait: self.audit_webhook_batch_max_wait,
                throttle: self.audit_webhook_batch_throttle_enable.then_some(throttle),
            },
            truncate: self.audit_webhook_truncate_enabled.then_some(limits),
        })
    }
}
