#!/usr/bin/env bash
# Builds edgewarden and edgewarden-fleet as Debian packages in a Debian 13 tree of its own.
#
#   bash deploy/deb/build.sh                       into dist/
#   bash deploy/deb/build.sh OUTDIR
#   bash deploy/deb/build.sh --version 0.1.1 OUTDIR   the same code under another version (upgrade tests)
#   bash deploy/deb/build.sh --lintian OUTDIR         and fail on anything lintian has to say
#
# Needs root (it makes a root file system) and a Debian mirror for the first run; the tree is kept in .cache/, which may vanish. What is
# built is what git tracks, as it stands on the disk. The build runs on an overlay in mount and network namespaces of its own: the
# tree stays as it is, and nothing is fetched. Two builds of one tree are the same bytes: every time is the changelog's.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec </dev/null
umask 022
unset PYTHONPATH PYTHONHOME PYTHONOPTIMIZE VIRTUAL_ENV SOURCE_DATE_EPOCH
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

version= lint=no out=dist
while [ $# -gt 0 ]; do
    case $1 in
        --version) version=${2:?}; shift 2 ;;
        --lintian) lint=yes; shift ;;
        -*) sed -n '2,/^set -/{s/^# \{0,1\}//p}' "$0" >&2; exit 64 ;;
        *) out=$1; shift ;;
    esac
done
[ "$(id -u)" -eq 0 ] || { echo "build.sh: needs root: it makes a root file system to build in" >&2; exit 77; }

. deploy/deb/tree.sh
work=$(mktemp -d)
trap 'apt_guard_down; rm -rf "$work"' EXIT
tree_need build "$(sed -n '/^Build-Depends:/,/^[^ ]/{s/^ \([a-z0-9-]*\).*/\1/p}' deploy/deb/debian/control |
    sed 's/^debhelper-compat$/debhelper/' | tr '\n' ,)dpkg-dev,fakeroot,lintian"

mkdir -p "$out" "$work/upper/build/edgewarden" "$work/scratch" "$work/root"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    [ ! -f "$file" ] || printf '%s\0' "$file"
done | tar -c --null -T - | tar -x -C "$work/upper/build/edgewarden"
source=$work/upper/build/edgewarden
cp -a "$source/deploy/deb/debian" "$source/debian"
if [ -n "$version" ]; then
    sed -i "1s/(.*)/($version)/" "$source/debian/changelog"
    sed -i "s/^__version__ = .*/__version__ = \"$version\"/" "$source/agent/edgewarden/__init__.py"
fi

cat >"$work/inside" <<'INSIDE'
set -eu
cd /build/edgewarden
export LC_ALL=C.UTF-8 HOME=/nonexistent DEB_BUILD_OPTIONS=nocheck
umask 022
# No check of build dependencies: it asks for a C compiler, and the tree holds the list of debian/control anyhow.
dpkg-buildpackage --build=binary --no-sign --no-check-builddeps
if [ "$1" = yes ]; then
    lintian --allow-root --fail-on error,warning,info --display-info --tag-display-limit 0 ../*.changes
fi
INSIDE
status=0
unshare --mount --net --propagation private sh -ec '
    mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/scratch" overlay "$2/root"
    mount -t proc proc "$2/root/proc"
    mount --bind /dev "$2/root/dev"
    cp "$2/inside" "$2/root/build/inside"
    exec chroot "$2/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin sh /build/inside "$3"
' sh "$tree" "$work" "$lint" >"$work/log" 2>&1 || status=$?
[ $lint = no ] || sed -n '/^[EWIP]: edgewarden/p' "$work/log" >&2
if [ $status -ne 0 ]; then
    tail -n 40 "$work/log" >&2
    echo "build.sh: the build ended with $status" >&2
    exit "$status"
fi
cp "$work"/upper/build/*.deb "$out/"
(cd "$work/upper/build" && sha256sum ./*.deb)
