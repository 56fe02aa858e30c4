# Sourced from the top of the checkout, never run: Debian 13 trees, made once and kept in .cache/.
#
#   tree_need NAME PACKAGE,PACKAGE...     makes .cache/trixie-NAME unless it is true to its list; its path is in $tree
#
# Packages come from the machine's own mirror as apt knows it, checked against Debian's archive keys. Returns 69 when there is no mirror.

. requirements/apt.sh

tree_need() {
    local name=$1 list=$2 want log keys=/usr/share/keyrings/debian-archive-keyring.gpg mirror
    tree=$PWD/.cache/trixie-$name
    want=$(printf '%s' "$list" | cat - deploy/deb/tree.sh | sha256sum | cut -d' ' -f1)
    [ "$(cat "$tree.made-from" 2>/dev/null || true)" != "$want" ] || [ ! -d "$tree/usr" ] || return 0
    apt_need mmdebstrap:mmdebstrap unshare:util-linux
    [ -e $keys ] || apt_need debian-archive-keyring:debian-archive-keyring
    mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Identifier: Packages' 2>/dev/null |
        awk '$1 ~ /debian$/ && !seen++ {print $1}')
    if [ -z "$mirror" ]; then
        echo "apt knows no Debian mirror to make $tree from" >&2
        return 69
    fi
    echo "making $tree" >&2
    log=$(mktemp)
    rm -rf "$tree" "$tree.made-from"
    mkdir -p "${tree%/*}"
    if ! mmdebstrap --quiet --variant=minbase --include="$list" trixie "$tree" \
        "deb [signed-by=$keys] $mirror trixie main" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -rf "$log" "$tree"
        echo "mmdebstrap could not make a Debian 13 tree" >&2
        return 69
    fi
    rm -f "$log"
    echo "$want" >"$tree.made-from"
}
