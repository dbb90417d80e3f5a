#!/bin/bash
# Unpacks MIT Kerberos (a KDC and its tools) in a directory; installs nothing and starts nothing.
#
#   bash kerberos_unpack.sh DIR     makes DIR/root; called by install.sh
set -euo pipefail

RECIPE=1
TARGET=$1
[ "$(cat "$TARGET/stamp" 2> /dev/null)" = "$RECIPE" ] && exit 0

echo "servers: unpacking Kerberos in $TARGET"
rm -rf "$TARGET.new"
bash "$(dirname "${BASH_SOURCE[0]}")/unpack_debs.sh" "$TARGET.new/root" \
  krb5-kdc krb5-user krb5-admin-server libgssrpc4 libkdb5-10 libkadm5srv-mit12 \
  libkadm5clnt-mit12 libverto1 libverto-libev1 libev4 libk5crypto3 libkrb5-3 libkrb5support0 \
  libgssapi-krb5-2 libkeyutils1
echo "$RECIPE" > "$TARGET.new/stamp"
rm -rf "$TARGET"
mv "$TARGET.new" "$TARGET"
