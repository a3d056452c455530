#!/bin/sh
# Installs Mosquitto from the system's packages unless it is there. Leaves a service that the package starts alone:
# popexd's own broker takes another port.
set -eu

PATH="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
if command -v mosquitto >/dev/null 2>&1; then
    exit 0
fi

say() { printf '%s\n' "$*" >&2; }

if ! command -v apt-get >/dev/null 2>&1; then
    for manager in "dnf:sudo dnf install mosquitto" "pacman:sudo pacman -S mosquitto" "zypper:sudo zypper install mosquitto" \
                   "apk:sudo apk add mosquitto" "brew:brew install mosquitto"; do
        if command -v "${manager%%:*}" >/dev/null 2>&1; then
            say "popexd needs the MQTT broker Mosquitto 2.0 or newer. Install it with: ${manager#*:}"
            exit 1
        fi
    done
    say "popexd needs the MQTT broker Mosquitto 2.0 or newer. Install the package 'mosquitto' (https://mosquitto.org/download)."
    exit 1
fi

if [ "$(id -u)" -eq 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1; then
    as_root="sudo"
else
    say "popexd needs the package 'mosquitto'. As root, run: apt-get install mosquitto"
    exit 1
fi

install_it() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends mosquitto >/dev/null; }

say "Installing Mosquitto with apt-get${as_root:+ (sudo may ask for your password)}"
# The package lists of a fresh machine may be missing or old.
if ! install_it 2>/dev/null; then
    $as_root apt-get update -q >/dev/null || { say "apt-get update failed: is the network up?"; exit 1; }
    install_it || { say "apt-get install mosquitto failed; install the package 'mosquitto' by hand."; exit 1; }
fi
command -v mosquitto >/dev/null 2>&1 || { say "apt-get installed the package, but there is no mosquitto program."; exit 1; }
