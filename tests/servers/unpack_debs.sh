#!/bin/bash
# Downloads Debian packages and unpacks them in a directory, installing nothing.
#
#   bash unpack_debs.sh DIR PACKAGE...
set -euo pipefail

mkdir -p "$1/.debs"
ROOT=$(cd "$1" && pwd)
shift
cd "$ROOT/.debs"
LOG=$ROOT/.debs/apt.log
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

if ! apt-get download -q "$@" > "$LOG" 2>&1; then
  # A fresh machine has no package lists yet.
  as_root apt-get update -q >> "$LOG" 2>&1 || true
  apt-get download -q "$@" >> "$LOG" 2>&1 || { tail -20 "$LOG"; exit 1; }
fi
for package in *.deb; do dpkg -x "$package" "$ROOT"; done
cd "$ROOT"
rm -rf .debs
