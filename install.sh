#!/bin/sh
# Installs, upgrades or removes sampan.
#
#   sh install.sh                          a server on this machine
#   sh install.sh server --node-name a     the same, with flags
#   sh install.sh agent --join https://<server>:6443 --token <token>
#                                          a further machine; `sampan token create` prints the line
#   sh install.sh --uninstall              takes everything back
#
# Run again with other flags, it changes the service; with another executable, it upgrades. Pods
# keep running meanwhile. The token goes into /etc/sampan/token, which only root reads.
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

# Where the flags lead, unless they say otherwise.
SOCKET=$RUN/cni.sock
CONFIG=$ETC/sampan.yaml

say() { echo "[sampan] $*"; }
die() { echo "[sampan] $*" >&2; exit 1; }

has_systemd() { [ -d /run/systemd/system ]; }
has_openrc() { [ -x /sbin/openrc-run ] && [ -e /run/openrc/softlevel ]; }

packages() {
    for a in "$@"; do
        # Only a node runs pods.
        [ "$a" != --disable-agent ] || return 0
    done
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
        command -v make >/dev/null 2>&1 || die "make is missing: install make and gcc"
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

# Takes the token out of the flags, which every user of the machine can read, and remembers the
# directories. Sets the flags of the service in `flags`, each in single quotes.
read_flags() {
    mkdir -p "$ETC"
    : >"$ETC/directories"
    flags=
    token=${SAMPAN_TOKEN:-}
    while [ $# -gt 0 ]; do
        case $1 in
        --token=*) token=${1#*=} ;;
        --token | -t)
            [ $# -gt 1 ] || die "$1 needs a value"
            token=$2
            shift
            ;;
        --data-dir | -d | --run-dir | --write-kubeconfig | --cgroup-root)
            [ $# -gt 1 ] || die "$1 needs a value"
            directory "$1" "$2"
            flags="$flags$(quoted "$1" "$2")"
            shift
            ;;
        --data-dir=* | --run-dir=* | --write-kubeconfig=* | --cgroup-root=*)
            directory "${1%%=*}" "${1#*=}"
            flags="$flags$(quoted "$1")"
            ;;
        *) flags="$flags$(quoted "$1")" ;;
        esac
        shift
    done
    [ -s "$ETC/directories" ] || rm -f "$ETC/directories"
    if [ -n "$token" ]; then
        (umask 077 && printf '%s\n' "$token" >"$ETC/token")
        flags="$flags$(quoted --token-file "$ETC/token")"
    fi
}

directory() { # flag value
    printf '%s=%s\n' "$1" "$2" >>"$ETC/directories"
    case $1 in
    --run-dir) SOCKET=$2/cni.sock ;;
    --write-kubeconfig) CONFIG=$2 ;;
    esac
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
ExecStart=$BIN$(printf %s "$flags" | sed 's/%/%%/g; s/\$/$$/g')
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
        systemctl reset-failed sampan
        systemctl restart sampan
        say "started as the service sampan (systemctl status sampan)"
    elif has_openrc; then
        cat >"$RC" <<RC_END
#!/sbin/openrc-run
description="Sampan: Kubernetes in one executable"
supervisor=supervise-daemon
command=$BIN
command_args="$(printf %s "$flags" | sed 's/["\\$`]/\\&/g')"
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
        (eval "exec setsid \"\$BIN\"$flags") </dev/null >>"$LOG" 2>&1 &
        echo $! >"$RUN/sampan.pid"
        say "no service manager found: started in the background, pid $(cat "$RUN/sampan.pid"), log $LOG"
        say "nothing starts it again after a reboot: run this script again then"
    fi
}

alive() {
    if has_systemd; then
        # What crashes is started again and again.
        [ "$(systemctl show -p NRestarts --value sampan)" = 0 ]
    elif has_openrc; then
        rc-service sampan status >/dev/null 2>&1
    else
        kill -0 "$(cat "$RUN/sampan.pid")" 2>/dev/null
    fi
}

last_words() {
    if has_systemd; then
        journalctl -u sampan -n 15 --no-pager -o cat >&2 || true
    else
        tail -n 15 "$LOG" >&2 || true
    fi
}

# Waits until a file is there.
wait_for() { # file what
    n=0
    until [ -e "$1" ]; do
        n=$((n + 1))
        if [ $n -gt 1200 ] || ! alive; then
            last_words
            die "$2; the last lines of its log are above"
        fi
        sleep 0.1
    done
}

uninstall() {
    stop
    if [ -x "$BIN" ]; then
        if [ -e "$ETC/directories" ]; then
            set --
            while IFS= read -r line; do set -- "$@" "$line"; done <"$ETC/directories"
            "$BIN" uninstall --yes "$@"
        fi
        # Also what an earlier installation with other flags has left.
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
server | agent) [ $# -gt 0 ] || set -- server ;;
*) set -- server "$@" ;;
esac
role=$1
packages "$@"
executable
read_flags "$@"
stop
if [ "$role" = agent ]; then
    # The agent makes it at every start, once this machine is a node and has its share of addresses.
    rm -f "$SOCKET"
    start
    wait_for "$SOCKET" "this machine has not joined"
    say "joined: kubectl get nodes on a server shows this machine"
else
    # The server writes it anew at every start, once it is ready.
    rm -f "$CONFIG"
    start
    wait_for "$CONFIG" "the server has not become ready"
    say "ready: kubectl --kubeconfig $CONFIG get nodes"
fi
