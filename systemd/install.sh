#!/bin/sh
# Installs popexd as services of this machine and takes it away again; what `make install` and `make uninstall` call.
#
#   install.sh install               as root
#   install.sh uninstall [--purge]   leaves what is in /etc; with --purge nothing
#
# Variables, as in `make install UNITS=popexd-worker@cloud`:
#   UNITS   what to enable and start; default: popexd-agent on the first installation, afterwards what is enabled
#   WHEELS  a folder made by `make wheels`: nothing is fetched from the network
#   PYTHON  which Python, 3.11 or newer; default: the system's
#   BROKER  no: do not install Mosquitto
#
# Every installation is a release of its own below /opt/popexd/releases; /opt/popexd/current says which is in force. A
# release that does not come up is taken back, and the one before it runs again. Configuration is never overwritten.
set -eu
# Others must be able to run what root installs, whatever root's own mask is.
umask 022

OPT=/opt/popexd
CONFIG=/etc/popexd
UNIT_FOLDER=/usr/local/lib/systemd/system
SYSUSERS=/usr/local/lib/sysusers.d/popexd.conf
TMPFILES=/usr/local/lib/tmpfiles.d/popexd.conf
LINK=/usr/local/bin/popexd
SETTLE_SECONDS=${SETTLE_SECONDS:-5}
SOURCE=$(cd "$(dirname "$0")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }
fail() { say "install.sh: $*"; exit 1; }

[ "$(id -u)" -eq 0 ] || fail "needs root: sudo make install"
live=no
[ -d /run/systemd/system ] && live=yes

reload() { [ "$live" = no ] || systemctl daemon-reload; }

# Every unit of ours that runs, wants to, or has failed.
running_units() {
    [ "$live" = yes ] || return 0
    systemctl list-units --all --plain --no-legend 'popexd-*.service' | while read -r unit _ active _; do
        case $active in inactive) ;; *) echo "$unit" ;; esac
    done
}

enabled_units() {
    find /etc/systemd/system -type l -path '*.wants/popexd-*.service' -exec basename {} \; 2>/dev/null | sort -u
}

# ------------------------------------------------------------------------------------------------- install

find_python() {
    for python in ${PYTHON:-/usr/bin/python3 /usr/bin/python3.14 /usr/bin/python3.13 /usr/bin/python3.12 \
                   /usr/bin/python3.11 /usr/local/bin/python3}; do
        command -v "$python" >/dev/null 2>&1 || continue
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        command -v "$python"
        return
    done
    fail "needs Python 3.11 or newer, which the system's is not: PYTHON=/path/to/python says where one is"
}

need_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    package="$(basename "$1")-venv"
    command -v apt-get >/dev/null 2>&1 || fail "needs Python's venv and ensurepip: install them"
    say "Installing $package with apt-get"
    apt-get install -y -qq "$package" >/dev/null 2>&1 ||
        { apt-get update -qq >/dev/null && apt-get install -y -qq "$package" >/dev/null; } ||
        fail "apt-get install $package failed: install it by hand"
}

# A folder that the services may not enter, a home for example, cannot hold their Python.
reachable() {
    case $("$1" -c 'import os, sys; print(os.path.realpath(sys.executable))') in
        /root/* | /home/* | /run/user/*) fail "$1 lies in a home folder, where services see nothing: PYTHON=/usr/bin/python3" ;;
    esac
}

# Its caller asks whether it worked, which switches `set -e` off in here.
build() {
    release=$1 python=$2
    rm -rf "$release"
    mkdir -p "$release" && "$python" -m venv "$release" || return 1
    set -- --quiet --disable-pip-version-check --no-cache-dir --no-compile --constraint "$SOURCE/constraints.txt"
    if [ -n "${WHEELS:-}" ]; then
        "$release/bin/python" -m pip install "$@" --no-index --find-links "$WHEELS" popexd || return 1
    elif ! "$release/bin/python" -m pip install "$@" "$SOURCE"; then
        say "Without network: \`make wheels\` on another machine, then make install WHEELS=dist/wheels"
        return 1
    fi
    "$release/bin/python" -m pip uninstall --quiet --yes --disable-pip-version-check setuptools pip || return 1
    # The libraries' own tests are half of what they take.
    find "$release/lib" -type d -name tests -prune -exec rm -rf {} +
}

# The services cannot write beside their modules.
compile() { "$1/bin/python" -m compileall -q -j 0 "$1/lib" || true; }

# What of the configuration the release does not understand, if anything.
accepts() {
    "$1/bin/popexd" --version >/dev/null || return 1
    [ ! -e "$CONFIG/agent.toml" ] || "$1/bin/popexd" agent check --config "$CONFIG/agent.toml" >/dev/null
}

activate() {
    release=$1 shared="$1/share/popexd"
    ln -sfn "releases/$(basename "$release")" "$OPT/current.new"
    mv -T "$OPT/current.new" "$OPT/current"
    ln -sfn current/bin "$OPT/bin"
    ln -sfn "$OPT/bin/popexd" "$LINK"
    mkdir -p "$UNIT_FOLDER"
    rm -f "$UNIT_FOLDER"/popexd-*.service
    install -m 644 "$shared"/systemd/popexd-*.service "$UNIT_FOLDER"
    install -D -m 644 "$shared/systemd/sysusers.conf" "$SYSUSERS"
    install -D -m 644 "$shared/systemd/tmpfiles.conf" "$TMPFILES"
    systemd-sysusers "$SYSUSERS"
    systemd-tmpfiles --create "$TMPFILES"
    for example in agent.toml worker-cloud.toml; do
        [ -e "$CONFIG/$example" ] || install -m 644 "$shared/examples/$example" "$CONFIG/$example"
    done
    reload
}

restarts() { systemctl show -p NRestarts --value "$1"; }

# Starts the units (workers first, they serve older agents too) and sees that they stay up.
come_up() {
    [ "$live" = yes ] || return 0
    for unit in $(printf '%s\n' "$@" | sort -r); do
        systemctl reset-failed "$unit" 2>/dev/null || true
        systemctl restart "$unit" || return 1
    done
    sleep "$SETTLE_SECONDS"
    for unit in "$@"; do
        systemctl is-active --quiet "$unit" && [ "$(restarts "$unit")" = 0 ] || return 1
    done
}

explain() {
    for unit in "$@"; do
        systemctl is-active --quiet "$unit" && [ "$(restarts "$unit")" = 0 ] && continue
        say "$unit:"
        journalctl --no-pager --quiet -n 10 -o cat -u "$unit" >&2 || true
    done
}

roll_back() {
    failed=$1 previous=$2
    shift 2
    explain "$@"
    activate "$previous"
    rm -rf "$failed"
    come_up "$@" || fail "the new version did not come up, and neither does the one before it"
    fail "the new version did not come up and was taken back; $(basename "$(readlink "$OPT/current")") runs again"
}

do_install() {
    if command -v dpkg-query >/dev/null 2>&1 && dpkg-query -W -f '${Status}' popexd 2>/dev/null | grep -q 'ok installed'; then
        fail "the Debian package popexd is installed: upgrade that, or remove it first"
    fi
    python=$(find_python)
    need_venv "$python"
    reachable "$python"
    [ "${BROKER:-}" = no ] || [ ! -x "$SOURCE/broker/install-mosquitto.sh" ] || "$SOURCE/broker/install-mosquitto.sh"
    previous=""
    [ ! -e "$OPT/current/bin/popexd" ] || previous="$OPT/releases/$(basename "$(readlink "$OPT/current")")"
    last=$(find "$OPT/releases" -mindepth 1 -maxdepth 1 -type d -exec basename {} \; 2>/dev/null | sort -n | tail -n 1)
    release="$OPT/releases/$((${last:-0} + 1))"
    [ -z "$previous" ] || accepts "$previous" || fail "$CONFIG/agent.toml is not what runs accepts; nothing has changed"
    say "Installing into $release"
    build "$release" "$python" || { rm -rf "$release"; fail "the new version could not be installed; nothing has changed"; }
    accepts "$release" || { rm -rf "$release"; fail "the new version refuses $CONFIG/agent.toml; nothing has changed"; }
    compile "$release"
    units=$(running_units)
    activate "$release"
    if [ -n "$previous" ]; then wanted=${UNITS:-}; else wanted=${UNITS-popexd-agent}; fi
    for unit in $wanted; do
        systemctl enable --quiet "$unit"
        case " $(echo "$units" | tr '\n' ' ') " in *" $unit.service "*) ;; *) units="$units $unit.service" ;; esac
    done
    # shellcheck disable=SC2086 # names of units, one word each
    if ! come_up $units; then
        [ -z "$previous" ] || roll_back "$release" "$previous" $units
        explain $units
        fail "installed, but not every unit came up"
    fi
    for old in "$OPT"/releases/*; do
        case $old in "$release" | "$previous") ;; *) rm -rf "$old" ;; esac
    done
    say "$("$OPT/bin/popexd" --version) is installed.$([ -z "$units" ] || echo " Running: $(echo $units)")"
    say "Configuration: $CONFIG. To enable a unit: systemctl enable --now popexd-agent, or popexd-worker@cloud."
}

# ----------------------------------------------------------------------------------------------- uninstall

do_uninstall() {
    units="$(running_units) $(enabled_units)"
    for unit in $(printf '%s\n' $units | sort -u); do
        [ "$live" = no ] || systemctl stop "$unit" || true
        systemctl disable --quiet "$unit" 2>/dev/null || true
    done
    rm -f "$UNIT_FOLDER"/popexd-*.service "$SYSUSERS" "$TMPFILES" "$LINK"
    rm -rf "$OPT" /var/lib/popexd /var/lib/popexd-broker /var/cache/popexd /run/popexd-*
    rmdir --ignore-fail-on-non-empty "$UNIT_FOLDER" "$(dirname "$SYSUSERS")" "$(dirname "$TMPFILES")" \
        "$(dirname "$UNIT_FOLDER")" 2>/dev/null || true
    reload
    [ "$live" = no ] || systemctl reset-failed 'popexd-*' 2>/dev/null || true
    if id popexd >/dev/null 2>&1; then userdel popexd 2>/dev/null || true; fi
    if [ "${1:-}" = --purge ]; then
        rm -rf "$CONFIG" /etc/credstore/popexd-* /etc/systemd/system/popexd-*.d
        rmdir --ignore-fail-on-non-empty /etc/credstore 2>/dev/null || true
        say "popexd is gone, configuration and secrets too."
    else
        say "popexd is gone; $CONFIG stays (install.sh uninstall --purge removes it)."
    fi
}

case "${1:-}" in
    install) do_install ;;
    uninstall) do_uninstall "${2:-}" ;;
    *) fail "expected install or uninstall [--purge]" ;;
esac
