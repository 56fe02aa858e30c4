#!/usr/bin/env bash
# What tier boot needs: both packages in two versions, and a Debian 13 tree with systemd and the gateway's dependencies.
#
#   bash tests/boot/prepare.sh OUTDIR NEXT      the packages, as they are and as version NEXT, go to OUTDIR; the path of the tree
#                                               is printed
#
# Returns 69 where no Debian mirror answers and .cache/ holds no tree; 77 without root.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

out=$1 next=$2
. deploy/deb/tree.sh
trap apt_guard_down EXIT
bash deploy/deb/build.sh --lintian "$out" >&2
bash deploy/deb/build.sh --version "$next" "$out" >&2
depends=$(sed -n '/^Package: edgewarden$/,/^Description:/{s/^ \(python3-[a-z0-9-]*\).*/\1/p}' deploy/deb/debian/control | tr '\n' ,)
tree_need boot "${depends}python3-aiohttp,ca-certificates,dbus,dropbear-bin,iproute2,libnftables1,libpam-systemd,openssh-server,procps,sudo,systemd,systemd-sysv,udev"
echo "$tree"
