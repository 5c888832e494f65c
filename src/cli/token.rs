//! `sampan token`: the tokens that machines join with. They are upstream's bootstrap tokens,
//! secrets in `kube-system`, made and listed through the API with the administrator's kubeconfig.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use api::ByteString;
use api::k8s::core::v1::{Endpoints, Secret};
use api::meta::apis::meta::v1::ObjectMeta;
use client::join::{JOINERS, JoinToken, ca_hash, is_bootstrap_token};
use client::{Client, ListParams};
use jiff::{SignedDuration, Timestamp};
use rand::Rng;
use tokio_util::task::TaskTracker;

use super::kubeconfig;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAME: &str = "bootstrap-token-";

/// Flags of `sampan token`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(subcommand)]
    command: Command,
    /// The administrator's kubeconfig.
    #[arg(long, env = "KUBECONFIG", default_value = "/etc/sampan/sampan.yaml", global = true)]
    kubeconfig: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a token and print it.
    Create(Create),
    /// List the tokens.
    List,
    /// Delete tokens.
    Delete {
        /// Their ids, or the tokens themselves.
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// The token, as <id>.<secret> of 6 and 16 lower-case letters and digits [default: a random one].
    token: Option<String>,
    /// How long it is good for, such as 24h or 30m; 0 for ever.
    #[arg(long, default_value = "24h", value_parser = duration)]
    ttl: SignedDuration,
    /// What it is for.
    #[arg(long, default_value = "")]
    description: String,
    /// Print the whole command that joins a machine.
    #[arg(long)]
    print_join_command: bool,
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    if text == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let d: SignedDuration = text.parse().map_err(|_| "must be a duration such as 24h, 90m or 0".to_owned())?;
    if d.is_negative() { Err("must not be negative".into()) } else { Ok(d) }
}

/// Runs `sampan token`.
pub fn run(flags: &Flags) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let access = kubeconfig::Access::read(&flags.kubeconfig)?;
        let client = access.connect(&TaskTracker::new())?;
        match &flags.command {
            Command::Create(c) => create(&client, &access, c).await,
            Command::List => list(&client).await,
            Command::Delete { tokens } => delete(&client, tokens).await,
        }
    })
}

fn random(length: usize) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

async fn create(client: &Client, access: &kubeconfig::Access, flags: &Create) -> Result<()> {
    let (id, secret) = match &flags.token {
        Some(t) => t.split_once('.').map(|(i, s)| (i.to_owned(), s.to_owned())).unwrap_or_default(),
        None => (random(6), random(16)),
    };
    if !is_bootstrap_token(&id, &secret) {
        bail!("a token must be <id>.<secret>: 6, a dot and 16 lower-case letters and digits");
    }
    let mut data = BTreeMap::from([
        ("token-id", id.clone()),
        ("token-secret", secret.clone()),
        ("usage-bootstrap-authentication", "true".to_owned()),
        ("auth-extra-groups", JOINERS.to_owned()),
    ]);
    if !flags.description.is_empty() {
        data.insert("description", flags.description.clone());
    }
    if !flags.ttl.is_zero() {
        data.insert("expiration", api::time::rfc3339(Timestamp::now() + flags.ttl));
    }
    let object = Secret {
        metadata: ObjectMeta {
            name: Some(format!("{NAME}{id}")),
            namespace: Some(NAMESPACE.to_owned()),
            ..Default::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some(data.into_iter().map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes()))).collect()),
        ..Default::default()
    };
    match client.create(&object).await {
        Err(s) if s.is_already_exists() => {
            bail!(
                "a token with the id {id:?} exists already; delete it with `sampan token delete {id}`, or choose another id"
            )
        }
        other => other.map_err(said).context("the token was not made")?,
    };
    let token = JoinToken { ca_hash: Some(ca_hash(&access.ca)?), id, secret };
    if flags.print_join_command {
        println!("sampan agent --join {} --token {token}", server(client).await?);
    } else {
        println!("{token}");
    }
    Ok(())
}

/// An API error as an error of this command.
fn said(s: api::Status) -> anyhow::Error {
    anyhow::Error::msg(s.message)
}

/// The address under which other machines reach the servers.
async fn server(client: &Client) -> Result<String> {
    let endpoints = client.get::<Endpoints>("default", "kubernetes").await.map_err(said);
    let endpoints = endpoints.context("cannot read the addresses of the servers")?;
    let found = endpoints.subsets.iter().flatten().find_map(|s| {
        let address = s.addresses.as_ref()?.first()?.ip.clone();
        let port = s.ports.as_ref()?.iter().find(|p| p.name.as_deref() == Some("https"))?.port;
        Some((address, port))
    });
    let (address, port) = found.context("the cluster does not say where its servers are: the endpoints `kubernetes` in the namespace `default` are empty")?;
    Ok(if address.contains(':') { format!("https://[{address}]:{port}") } else { format!("https://{address}:{port}") })
}

async fn list(client: &Client) -> Result<()> {
    let params = ListParams { namespace: NAMESPACE.into(), ..ListParams::field("type", TYPE) };
    let tokens = client.list::<Secret>(&params).await.map_err(said).context("cannot list the tokens")?;
    let now = Timestamp::now();
    let mut rows = vec![["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"].map(str::to_owned)];
    rows.extend(tokens.iter().map(|t| row(t, now)));
    print!("{}", table(&rows));
    Ok(())
}

fn row(token: &Secret, now: Timestamp) -> [String; 6] {
    let field = |name: &str| {
        let bytes = token.data.as_ref().and_then(|d| d.get(name)).map(|b| b.0.clone()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let or = |text: String, otherwise: &str| if text.is_empty() { otherwise.to_owned() } else { text };
    let expires = field("expiration");
    let ttl = match expires.parse::<Timestamp>() {
        Ok(t) if t <= now => "<invalid>".to_owned(),
        Ok(t) => api::time::human_duration(t.as_second() - now.as_second()),
        Err(_) if expires.is_empty() => "<forever>".to_owned(),
        Err(_) => "<invalid>".to_owned(),
    };
    let mut usages = Vec::new();
    for usage in ["authentication", "signing"] {
        if field(&format!("usage-bootstrap-{usage}")) == "true" {
            usages.push(usage);
        }
    }
    [
        format!("{}.{}", field("token-id"), field("token-secret")),
        ttl,
        or(expires, "<never>"),
        or(usages.join(","), "<none>"),
        or(field("description"), "<none>"),
        or(field("auth-extra-groups"), "<none>"),
    ]
}

/// Columns as wide as their widest cell, three blanks between.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |r: &[String; N]| {
        let cells: Vec<String> = r.iter().zip(&widths).map(|(c, w)| format!("{c:w$}")).collect();
        format!("{}\n", cells.join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}

async fn delete(client: &Client, tokens: &[String]) -> Result<()> {
    for token in tokens {
        let id = match token.parse::<JoinToken>() {
            Ok(t) if is_bootstrap_token(&t.id, &t.secret) => t.id,
            _ => token.clone(),
        };
        match client.delete::<Secret>(NAMESPACE, &format!("{NAME}{id}")).await {
            Ok(()) => println!("bootstrap token {id:?} deleted"),
            Err(s) if s.is_not_found() => bail!("there is no token with the id {id:?}; see `sampan token list`"),
            Err(s) => return Err(said(s)).with_context(|| format!("the token {id:?} was not deleted")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live() {
        assert_eq!(duration("0"), Ok(SignedDuration::ZERO));
        assert_eq!(duration("24h"), Ok(SignedDuration::from_hours(24)));
        assert_eq!(duration("1h30m"), Ok(SignedDuration::from_mins(90)));
        assert!(duration("-1h").is_err() && duration("soon").is_err());
    }

    #[test]
    fn rows_tell_how_long_a_token_lasts() {
        let now = Timestamp::from_second(1_767_225_600).expect("2026-01-01T00:00:00Z");
        let token = |expires: &str| Secret {
            data: Some(
                [("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("expiration", expires)]
                    .map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec())))
                    .into(),
            ),
            ..Default::default()
        };
        assert_eq!(row(&token("2026-01-02T00:00:00Z"), now)[1], "24h");
        assert_eq!(row(&token("2025-01-02T00:00:00Z"), now)[1], "<invalid>");
        assert_eq!(row(&token(""), now)[1..3], ["<forever>", "<never>"]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [["A", "B"], ["long", "x"]].map(|r| r.map(str::to_owned));
        assert_eq!(table(&rows), "A      B\nlong   x\n");
    }
}
