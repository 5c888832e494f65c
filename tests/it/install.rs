//! `install.sh` on a machine without a service manager: installs, changes flags, tells what went
//! wrong, takes everything back. The machine's own directories are covered by overlays.

use crate::hosts::{Lab, lacking, succeeded};
use crate::lab::skipped;

const SCRIPT: &str = r#"
set -eu
directory=$1 install=$2
for d in etc usr/local var; do
    mkdir -p "$directory/up/$d" "$directory/work/$d"
    mount -t overlay -o "lowerdir=/$d,upperdir=$directory/up/$d,workdir=$directory/work/$d" overlay "/$d"
done
mount -t tmpfs tmpfs /run
ready() { kubectl --kubeconfig /etc/sampan/sampan.yaml --server "https://127.0.0.1:$1" get --raw /readyz; echo; }

sh "$install" server --disable-agent
ready 6443
[ "$(stat -c %a /etc/sampan/sampan.yaml)" = 600 ]

sh "$install" server --disable-agent --https-listen-port 7443 --data-dir '/var/lib/other place' --token-file=/dev/null ||
    echo "refused"
sh "$install" server --disable-agent --https-listen-port 7443 --data-dir '/var/lib/other place'
ready 7443

sh "$install" --uninstall
for left in /etc/sampan /run/sampan /usr/local/bin/sampan /var/lib/sampan '/var/lib/other place' /var/log/sampan.log; do
    [ ! -e "$left" ] || echo "left: $left"
done
"#;

#[test]
fn the_installer_installs_changes_refuses_and_takes_back() {
    if let Some(why) = lacking() {
        return skipped(&why);
    }
    let mut lab = Lab::new();
    let host = lab.host();
    let directory = host.kubeconfig().with_file_name("machine");
    std::fs::create_dir_all(&directory).unwrap();
    let install = concat!(env!("CARGO_MANIFEST_DIR"), "/install.sh");
    let mut c = host.command("unshare");
    c.env_remove("KUBECONFIG").env("SAMPAN_BINARY", env!("CARGO_BIN_EXE_sampan"));
    c.args(["--mount", "--propagation=private", "sh", "-c", SCRIPT, "sh"]).arg(&directory).arg(install);
    let said = succeeded(&mut c);
    assert!(said.contains("no service manager found: started in the background, pid "), "{said}");
    assert_eq!(said.matches("\nok\n").count(), 2, "{said}");
    assert!(said.contains("refused\n"), "{said}");
    assert!(!said.contains("left: "), "{said}");
}
