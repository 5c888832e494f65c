#!/bin/sh
# Installs, upgrades or removes sampan.
#
#   sh install.sh                          a server on this machine
#   sh install.sh server --node-name a     the same, with flags
#   sh install.sh --uninstall              takes everything back
#
# The executable is, in this order: $SAMPAN_BINARY (a file), $SAMPAN_URL (a release), or built from
# the checkout that this script lies in.
set -eu

BIN=${SAMPAN_BIN_DIR:-/usr/local/bin}/sampan
ETC=/etc/sampan
RUN=/run/sampan
LOG=/var/log/sampan.log
UNIT=/etc/systemd/system/sampan.service
RC=/etc/init.d/sampan

say() { echo "[sampan] $*"; }
die() { echo "[sampan] $*" >&2; exit 1; }

has_systemd() { [ -d /run/systemd/system ]; }
has_openrc() { [ -x /sbin/openrc-run ] && [ -e /run/openrc/softlevel ]; }

packages() {
    missing=
    command -v containerd >/dev/null 2>&1 || missing="$missing containerd"
    command -v runc >/dev/null 2>&1 || command -v crun >/dev/null 2>&1 || missing="$missing runc"
    command -v nft >/dev/null 2>&1 || missing="$missing nftables"
    [ -n "$missing" ] || return 0
    say "installing:$missing"
    # shellcheck disable=SC2086 # a list of packages
    if command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing
    elif command -v dnf >/dev/null 2>&1; then
        dnf install -y $missing
    elif command -v apk >/dev/null 2>&1; then
        apk add $missing
    elif command -v zypper >/dev/null 2>&1; then
        zypper --non-interactive install $missing
    else
        die "install these packages and run this again:$missing"
    fi
}

executable() {
    new=$BIN.new
    mkdir -p "$(dirname "$BIN")"
    if [ -n "${SAMPAN_BINARY:-}" ]; then
        cp "$SAMPAN_BINARY" "$new"
    elif [ -n "${SAMPAN_URL:-}" ]; then
        curl -fsSL "$SAMPAN_URL" -o "$new"
    else
        here=$(cd "$(dirname "$0")" && pwd)
        [ -e "$here/Cargo.toml" ] || die "set SAMPAN_BINARY to a file or SAMPAN_URL to a release, or run this from a checkout"
        command -v cargo >/dev/null 2>&1 || die "cargo is missing: https://rustup.rs"
        command -v protoc >/dev/null 2>&1 || die "protoc is missing: install protobuf-compiler and libprotobuf-dev"
        say "building the executable; this takes some minutes"
        (cd "$here" && cargo build --release --quiet)
        cp "$here/target/release/sampan" "$new"
    fi
    chmod 755 "$new"
    "$new" version >/dev/null || die "$new does not run on this machine"
    # Replaced at once: a running server keeps its old file.
    mv "$new" "$BIN"
}

stop() {
    if has_systemd && [ -e "$UNIT" ]; then
        systemctl stop sampan || true
    elif has_openrc && [ -e "$RC" ]; then
        rc-service sampan stop || true
    elif [ -e "$RUN/sampan.pid" ]; then
        pid=$(cat "$RUN/sampan.pid")
        # A pid may have been given to somebody else since.
        if [ "$(readlink "/proc/$pid/exe" 2>/dev/null | sed 's/ (deleted)$//')" = "$BIN" ]; then
            kill "$pid"
            n=0
            while kill -0 "$pid" 2>/dev/null && [ $n -lt 150 ]; do sleep 0.1; n=$((n + 1)); done
        fi
        rm -f "$RUN/sampan.pid"
    fi
}

quoted() { # the flags, each in single quotes
    for a in "$@"; do
        printf " '%s'" "$(printf %s "$a" | sed "s/'/'\\\\''/g")"
    done
}

start() {
    if has_systemd; then
        cat >"$UNIT" <<UNIT_END
[Unit]
Description=Sampan: Kubernetes in one executable
Wants=network-online.target
After=network-online.target

[Service]
ExecStartPre=-/sbin/modprobe overlay
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStart=$BIN$(quoted "$@" | sed 's/%/%%/g')
Restart=always
RestartSec=2
Delegate=yes
KillMode=process
LimitNOFILE=1048576
TasksMax=infinity

[Install]
WantedBy=multi-user.target
UNIT_END
        systemctl daemon-reload
        systemctl enable --quiet sampan
        systemctl restart sampan
        say "started as the service sampan (systemctl status sampan)"
    elif has_openrc; then
        cat >"$RC" <<RC_END
#!/sbin/openrc-run
description="Sampan: Kubernetes in one executable"
supervisor=supervise-daemon
command=$BIN
command_args="$(quoted "$@" | sed 's/["\\$`]/\\&/g')"
output_log=$LOG
error_log=$LOG
depend() { need net; }
RC_END
        chmod 755 "$RC"
        rc-update add sampan default >/dev/null
        rc-service sampan restart
        say "started as the service sampan (rc-service sampan status)"
    else
        mkdir -p "$RUN"
        setsid "$BIN" "$@" </dev/null >>"$LOG" 2>&1 &
        echo $! >"$RUN/sampan.pid"
        say "no service manager found: started in the background, pid $(cat "$RUN/sampan.pid"), log $LOG"
    fi
}

uninstall() {
    stop
    if [ -x "$BIN" ]; then
        "$BIN" uninstall --yes
    fi
    if has_systemd && [ -e "$UNIT" ]; then
        systemctl disable --quiet sampan || true
        rm -f "$UNIT"
        systemctl daemon-reload
    fi
    if has_openrc && [ -e "$RC" ]; then
        rc-update del sampan default >/dev/null 2>&1 || true
        rm -f "$RC"
    fi
    rm -rf "$ETC" "$RUN" "$LOG" "$BIN"
    say "removed"
}

[ "$(id -u)" = 0 ] || die "run this as root: sudo sh install.sh …"
case ${1:-server} in
--uninstall)
    uninstall
    exit 0
    ;;
server) ;;
agent) die "joining a server is not part of this version yet" ;;
*) set -- server "$@" ;;
esac
[ $# -gt 0 ] || set -- server
packages
executable
stop
start "$@"
n=0
until [ -e "$ETC/sampan.yaml" ] || [ $n -ge 300 ]; do sleep 0.1; n=$((n + 1)); done
[ -e "$ETC/sampan.yaml" ] || die "the server has not become ready; see its log"
say "ready: kubectl --kubeconfig $ETC/sampan.yaml get nodes"
