#!/bin/bash
# Installs what the real servers of the tests need, on Debian or one of its children.
#
#   bash tests/servers/install.sh                 everything
#   bash tests/servers/install.sh sshd hdfs ...   only these: azurite sshd vsftpd hdfs kerberos,
#                                                 and ceph, which the benchmarks alone use
#
# Servers that are Python packages (moto, gcs, asyncssh, pyftpd, mlflow) come with
# `pip install -e .[test]`. Quick when all is there; run by root or by somebody with sudo.
# What no package manager installs goes to $MLARTIFACTS_TEST_CACHE (~/.cache/mlartifacts-tests).
# $PYTHON is the Python whose pip fetches (default: .venv's, else python3).
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${MLARTIFACTS_TEST_CACHE:-$HOME/.cache/mlartifacts-tests}
mkdir -p "$CACHE"

say() { printf 'servers: %s\n' "$*"; }

have() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" > /dev/null; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -- "$@"; fi
}

# No package may start its service: each test starts its own server. Debian asks this file.
POLICY=/usr/sbin/policy-rc.d

# apt_install PACKAGE...: with the package lists refreshed, if that is needed.
apt_install() {
  have apt-get || { say "no apt-get here: please install $*"; return 1; }
  say "apt-get install $*"
  local ours=
  if [ ! -e $POLICY ]; then
    ours=yes
    printf '#!/bin/sh\nexit 101\n' | as_root tee $POLICY > /dev/null
    as_root chmod +x $POLICY
  fi
  local status=0
  apt_get install "$@" > "$CACHE/apt.log" 2>&1 \
    || { apt_get update && apt_get install "$@"; } >> "$CACHE/apt.log" 2>&1 || status=$?
  [ -z "$ours" ] || as_root rm -f $POLICY
  [ $status = 0 ] || tail -20 "$CACHE/apt.log"
  return $status
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends \
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@"
}

install_sshd() {
  have sshd && have ssh-keygen || apt_install openssh-server openssh-client
}

install_vsftpd() {
  have vsftpd || apt_install vsftpd
}

AZURITE=3.35.0

install_azurite() {
  # The marker names the version: a package that is there is not asked for at the registry.
  [ -e "$CACHE/azurite/installed-$AZURITE" ] && have node && return
  # Debian's npm pulls in hundreds of packages: only where there is none.
  have node && have npm || apt_install nodejs npm
  say "npm install azurite@$AZURITE"
  mkdir -p "$CACHE/azurite"
  npm install --prefix "$CACHE/azurite" --no-audit --no-fund --loglevel=error \
    "azurite@$AZURITE" > "$CACHE/npm.log" 2>&1 || { tail -20 "$CACHE/npm.log"; return 1; }
  touch "$CACHE/azurite/installed-$AZURITE"
}

install_hdfs() {
  local missing=()
  have javac || missing+=(openjdk-17-jdk-headless)
  have gcc || missing+=(gcc libc6-dev)
  have unzip || missing+=(unzip)
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
  bash "$HERE/hdfs_build.sh" "$CACHE/hdfs"
}

install_ceph() {
  have radosgw && have ceph-mon && have ceph-osd ||
    apt_install radosgw ceph-mon ceph-osd ceph-common
}

install_kerberos() {
  bash "$HERE/kerberos_unpack.sh" "$CACHE/kerberos"
}

# One at a time: apt, npm and the HDFS build do not like company.
exec 9> "$CACHE/install.lock"
flock 9

[ $# -gt 0 ] || set -- sshd vsftpd azurite hdfs kerberos
for server in "$@"; do
  case $server in
    sshd | vsftpd | azurite | hdfs | kerberos | ceph) "install_$server" ;;
    moto | gcs | asyncssh | pyftpd | mlflow)
      say "$server is a Python package: pip install -e '.[test]'" ;;
    *) say "unknown server: $server"; exit 2 ;;
  esac
done
say "ready: $*"
