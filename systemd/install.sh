#!/bin/sh
# Installs popexd as services of this machine and takes it away again; what `make install` and `make uninstall` call.
#
#   install.sh install               as root
#   install.sh uninstall [--purge]   leaves what is in /etc; with --purge nothing
#   install.sh --help                prints this
#
# Variables, as in `make install UNITS=popexd-worker@cloud`:
#   UNITS   what to enable and start; default: popexd-agent on the first installation, afterwards nothing more
#   WHEELS  a folder made by `make wheels`: nothing is fetched from the network
#   PYTHON  which Python, 3.11 or newer; default: the system's
#   BROKER  no: do not install Mosquitto
#
# Every installation is a release of its own below /opt/popexd/releases; /opt/popexd/current says which is in force. Where
# what ran before does not come up with a release, that is taken back, and the one before it runs again; what failed
# before may go on failing. Configuration is never overwritten.
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

# The comment at the head of this file.
usage() { sed -n '2,/^set -eu/ s/^# \{0,1\}//p' "$0"; }

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

property() { systemctl show -p "$2" --value "$1"; }

# A unit that is tried again and again is active for a moment each time.
is_up() {
    systemctl is-active --quiet "$1" || return 1
    [ "$(property "$1" NRestarts)" != 0 ] || return 0
    since=$(property "$1" ActiveEnterTimestampMonotonic)
    [ $(($(cut -d. -f1 /proc/uptime) - since / 1000000)) -gt "$SETTLE_SECONDS" ]
}

# Those of these units that are up.
up_among() { for unit in "$@"; do ! is_up "$unit" || echo "$unit"; done; }

# What dpkg knows of a package of ours: nothing, config-files once it was removed, or that its files are here.
package_state() {
    command -v dpkg-query >/dev/null 2>&1 || return 0
    dpkg-query -W -f '${db:Status-Status}' popexd 2>/dev/null || true
}

refuse_beside_the_package() {
    case $(package_state) in
        "" | not-installed | config-files) ;;
        *) fail "the Debian package popexd is installed: $1" ;;
    esac
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

# Whether a release understands the configuration; that of an agent which is not up is its own affair.
accepts() {
    "$1/bin/popexd" --version >/dev/null || return 1
    [ ! -e "$CONFIG/agent.toml" ] || [ "$agent_counts" = no ] ||
        "$1/bin/popexd" agent check --config "$CONFIG/agent.toml" >/dev/null
}

# Refuses whatever is no unit of ours, or has nothing to read; prints the others by their full name.
checked_units() {
    for unit in "$@"; do
        name=${unit%.service} needs=""
        case $name in
            popexd-agent | popexd-broker) ;;
            popexd-worker@?*) needs="$CONFIG/worker-${name#*@}.toml" ;;
            popexd-camera@?*) needs="$CONFIG/camera-${name#*@}.env" ;;
            *) fail "UNITS: no unit $unit, expected popexd-agent, popexd-broker, popexd-worker@NAME or popexd-camera@NAME" ;;
        esac
        [ -z "$needs" ] || [ -e "$needs" ] || [ -e "$SOURCE/examples/$(basename "$needs")" ] ||
            fail "UNITS: $unit reads $needs, which is not there"
        [ "$live" = no ] || [ "$(property "$name.service" UnitFileState)" != masked ] ||
            fail "UNITS: $unit is masked, systemctl unmask $unit lets it be started"
        echo "$name.service"
    done
}

activate() {
    shared="$1/share/popexd"
    ln -sfn "releases/$(basename "$1")" "$OPT/current.new"
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
    for example in agent.toml worker-cloud.toml broker.env; do # an older release has fewer
        [ -e "$CONFIG/$example" ] || [ ! -e "$shared/examples/$example" ] ||
            install -m 644 "$shared/examples/$example" "$CONFIG/$example"
    done
    reload
}

stays_up() { systemctl is-active --quiet "$1" && [ "$(property "$1" NRestarts)" = 0 ]; }

# Starts the units (workers first, they serve older agents too) and prints those that do not stay up.
not_coming_up() {
    [ "$live" = yes ] && [ $# -gt 0 ] || return 0
    for unit in $(printf '%s\n' "$@" | sort -r); do
        systemctl reset-failed "$unit" 2>/dev/null || true
        systemctl restart "$unit" >&2 || true
    done
    sleep "$SETTLE_SECONDS"
    for unit in "$@"; do stays_up "$unit" || echo "$unit"; done
}

# What did not run before is given its chance with the new version, and not waited for.
try_again() {
    for unit in "$@"; do
        systemctl reset-failed "$unit" 2>/dev/null || true
        systemctl restart --no-block "$unit" || true
    done
}

explain() {
    for unit in "$@"; do
        say "$unit:"
        journalctl --no-pager --quiet -n 10 -o cat -u "$unit" >&2 || true
    done
}

# Whatever ends an upgrade half done, a signal too, ends here.
take_back() {
    trap '' INT TERM HUP
    trap - EXIT
    [ -n "$previous" ] || fail "the installation was not finished: run it again"
    activate "$previous"
    rm -rf "$release"
    # shellcheck disable=SC2086 # names of units, one word each
    [ -z "$(not_coming_up $up)" ] || fail "the new version did not come up, and neither does the one before it"
    fail "the new version did not come up and was taken back; $(basename "$(readlink "$OPT/current")") runs again"
}

do_install() {
    refuse_beside_the_package "upgrade that, or remove it first"
    previous=""
    [ ! -e "$OPT/current/bin/popexd" ] || previous="$OPT/releases/$(basename "$(readlink "$OPT/current")")"
    if [ -n "$previous" ]; then wanted=${UNITS:-}; else wanted=${UNITS-popexd-agent}; fi
    # shellcheck disable=SC2086 # names of units, one word each, here and below
    wanted=$(checked_units $wanted)
    agent_counts=no
    case " $(up_among $(running_units) | tr '\n' ' ') $wanted " in *popexd-agent.service*) agent_counts=yes ;; esac
    python=$(find_python)
    need_venv "$python"
    reachable "$python"
    [ "${BROKER:-}" = no ] || [ ! -x "$SOURCE/broker/install-mosquitto.sh" ] || "$SOURCE/broker/install-mosquitto.sh"
    last=$(find "$OPT/releases" -mindepth 1 -maxdepth 1 -type d -exec basename {} \; 2>/dev/null | sort -n | tail -n 1)
    release="$OPT/releases/$((${last:-0} + 1))"
    [ -z "$previous" ] || accepts "$previous" || fail "$CONFIG/agent.toml is not what runs accepts; nothing has changed"
    say "Installing into $release"
    build "$release" "$python" || { forget "$release"; fail "the new version could not be installed; nothing has changed"; }
    accepts "$release" || { forget "$release"; fail "the new version refuses $CONFIG/agent.toml; nothing has changed"; }
    compile "$release"
    running=$(running_units)
    up=$(up_among $running)
    trap 'exit 1' INT TERM HUP
    trap take_back EXIT
    activate "$release"
    for unit in $wanted; do systemctl enable --quiet "$unit" || true; done
    units=$(printf '%s\n' $up $wanted | sort -u)
    failing=$(not_coming_up $units)
    explain $failing
    lost=$(printf '%s\n' $failing $up | sort | uniq -d)
    [ -z "$lost" ] || exit 1
    trap - EXIT INT TERM HUP
    try_again $(printf '%s\n' $running $units $units | sort | uniq -u)
    for old in "$OPT"/releases/*; do
        case $old in "$release" | "$previous") ;; *) rm -rf "$old" ;; esac
    done
    [ "$(package_state)" != config-files ] || say "dpkg still counts $CONFIG as its own: dpkg --purge popexd deletes it."
    version=$("$OPT/bin/popexd" --version)
    [ -z "$failing" ] || fail "$version is installed, but not every unit came up:" $failing
    say "$version is installed.$([ -z "$units" ] || echo " Running:" $units)"
    say "Configuration: $CONFIG. To enable a unit: systemctl enable --now popexd-agent, or popexd-worker@cloud."
}

# A release that was never in force, and where it was the first the folders for it.
forget() {
    rm -rf "$1"
    rmdir --ignore-fail-on-non-empty "$OPT/releases" "$OPT" 2>/dev/null || true
}

# ----------------------------------------------------------------------------------------------- uninstall

do_uninstall() {
    refuse_beside_the_package "apt-get remove popexd takes it away"
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

bad_usage() { say "install.sh: ${*:-nothing}: expected install, uninstall [--purge] or --help"; exit 2; }

for word in "$@"; do
    case $word in -h | --help) usage; exit 0 ;; esac
done
case "$*" in
    install | uninstall | "uninstall --purge") ;;
    *) bad_usage "$@" ;;
esac
[ "$(id -u)" -eq 0 ] || fail "needs root: sudo make $1"
case $1 in
    install) do_install ;;
    uninstall) do_uninstall "${2:-}" ;;
esac
