#!/bin/sh
# Builds dist/popexd_VERSION_ARCH.deb: the environment below /opt/popexd, units, examples as configuration files.
# Units are enabled by whoever installs it. Needs dpkg-deb and the system's own Python, which the package depends on.
#
#   WHEELS       a folder made by `make wheels`: nothing is fetched from the network
#   COMPRESSION  of dpkg-deb: gzip (default), zstd, none, or xz, which takes minutes for a fifth less
set -eu
# Others must be able to run what root installs, whatever root's own mask is.
umask 022

SOURCE=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-/usr/bin/python3}
OUT=${OUT:-$SOURCE/dist}

fail() { printf 'build-deb.sh: %s\n' "$*" >&2; exit 1; }

command -v dpkg-deb >/dev/null || fail "needs dpkg-deb: this is for Debian and its relatives"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$PYTHON: expected Python 3.11 or newer"
"$PYTHON" -c 'import ensurepip, venv' || fail "needs Python's venv: apt-get install python3-venv"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
trap 'exit 1' INT TERM
root=$stage/root
chmod 755 "$stage"

# ------------------------------------------------------------------- the environment, as if it were in /opt/popexd
"$PYTHON" -m venv "$root/opt/popexd"
set -- --quiet --disable-pip-version-check --no-compile --constraint "$SOURCE/constraints.txt"
if [ -n "${WHEELS:-}" ]; then
    "$root/opt/popexd/bin/python" -m pip install "$@" --no-index --find-links "$WHEELS" popexd
else
    "$root/opt/popexd/bin/python" -m pip install "$@" --no-cache-dir "$SOURCE"
fi
"$root/opt/popexd/bin/python" -m pip uninstall --quiet --yes --disable-pip-version-check setuptools pip
version=$("$root/opt/popexd/bin/python" -c 'import popexd; print(popexd.__version__)')
find "$root/opt/popexd" -type d '(' -name __pycache__ -o -name tests ')' -prune -exec rm -rf {} +
find "$root/opt/popexd" -name direct_url.json -delete
rm -f "$root"/opt/popexd/bin/activate* "$root"/opt/popexd/bin/Activate*
grep -rlI "$root" "$root/opt/popexd/bin" "$root/opt/popexd/pyvenv.cfg" | xargs sed -i "s|$root||g"
"$PYTHON" -m compileall -q -j 0 -s "$root" -p / "$root/opt/popexd/lib" || true

# ------------------------------------------------------------------------------------- units, users, configuration
shared=$root/opt/popexd/share/popexd
install -d "$root/lib/systemd/system" "$root/usr/bin" "$root/usr/share/doc/popexd" "$root/etc/popexd"
install -m 644 "$shared"/systemd/popexd-*.service "$root/lib/systemd/system"
install -D -m 644 "$shared/systemd/sysusers.conf" "$root/usr/lib/sysusers.d/popexd.conf"
install -D -m 644 "$shared/systemd/tmpfiles.conf" "$root/usr/lib/tmpfiles.d/popexd.conf"
install -m 644 "$shared"/examples/* "$root/etc/popexd"
rm -f "$shared/systemd/install.sh"
ln -s /opt/popexd/bin/popexd "$root/usr/bin/popexd"
install -m 644 "$SOURCE/LICENSE" "$root/usr/share/doc/popexd/copyright"
gzip -9nc "$SOURCE/CHANGELOG.md" >"$root/usr/share/doc/popexd/changelog.gz"

# ------------------------------------------------------------------------------------------------- the package
minor=$("$PYTHON" -c 'import sys; print(sys.version_info.minor)')
install -d "$root/DEBIAN"
for script in preinst postinst prerm postrm; do
    install -m 755 "$SOURCE/packaging/$script" "$root/DEBIAN/$script"
done
(cd "$root" && find etc -type f | sed 's|^|/|' | sort) >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<CONTROL
Package: popexd
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: popexd
Section: net
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: python3 (>= 3.$minor), python3 (<< 3.$((minor + 1))~), systemd (>= 247), libc6 (>= 2.28)
Recommends: mosquitto (>= 2.0)
Description: early-exit, split neural networks over MQTT
 A daemon for small devices: it takes camera frames from MQTT, answers at the first side branch of a neural network that
 is sure, and otherwise ships the intermediate tensor to a worker that finishes. Agent, worker and commands.
CONTROL
mkdir -p "$OUT"
package=$OUT/popexd_${version}_$(dpkg --print-architecture).deb
dpkg-deb --root-owner-group -Z"${COMPRESSION:-gzip}" --build "$root" "$package" >/dev/null
echo "$package"
