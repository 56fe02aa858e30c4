# Sourced, never run: Debian packages that are missing, installed by name, without starting what they bring.
#
#   apt_need PROGRAM:PACKAGE ...     installs the packages whose program is not on PATH; /A/FILE:PACKAGE where there is none
#
# Returns 69 when apt cannot; without root it says what is missing and returns 0: the caller finds out by itself.

_guard=/usr/sbin/policy-rc.d
_guard_kept=

# Installing a daemon's package starts the daemon, unless this file says no; what stood there before comes back.
apt_guard_up() {
    _guard_kept=$(mktemp -d)
    if [ -e $_guard ]; then cp -a $_guard "$_guard_kept/policy-rc.d"; fi
    printf '#!/bin/sh\nexit 101\n' >$_guard
    chmod 755 $_guard
}

apt_guard_down() {
    [ -n "$_guard_kept" ] || return 0
    rm -f $_guard
    if [ -e "$_guard_kept/policy-rc.d" ]; then cp -a "$_guard_kept/policy-rc.d" $_guard; fi
    rm -rf "$_guard_kept"
    _guard_kept=
}

# What stands around a TPM in software, and what the binding is built from (ADR 25).
apt_tpm=(swtpm:swtpm swtpm_setup:swtpm-tools tpm2_quote:tpm2-tools tpm2-abrmd:tpm2-abrmd dbus-daemon:dbus-daemon dbus-send:dbus-bin
    certtool:gnutls-bin gcc:gcc pkg-config:pkg-config python3-config:python3-dev
    /usr/include/tss2/tss2_esys.h:libtss2-dev /usr/share/doc/tpm2-openssl/copyright:tpm2-openssl
    /usr/share/doc/libtss2-tcti-tabrmd0/copyright:libtss2-tcti-tabrmd0
    /usr/share/doc/python3-tpm2-pytss/copyright:python3-tpm2-pytss)

# A fresh machine updates itself when it starts, and holds apt's locks meanwhile; a mirror may be away for a moment.
apt_patient() {
    local try
    for try in 1 2 3 4; do
        [ $try -eq 1 ] || sleep $((10 * (try - 1)))
        apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" && return 0
    done
    return 1
}

apt_need() {
    local pair packages=() log status=0
    for pair in "$@"; do
        case $pair in
            /*) [ -e "${pair%%:*}" ] || packages+=("${pair##*:}") ;;
            *) command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}") ;;
        esac
    done
    # The venv module is there without what it needs to make one.
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
    [ ${#packages[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "not root, so not installed: ${packages[*]}" >&2
        return 0
    fi
    echo "installing ${packages[*]}" >&2
    log=$(mktemp)
    apt_guard_up
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt_patient update && apt_patient install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "apt could not install ${packages[*]}" >&2
        status=69
    fi
    apt_guard_down
    rm -f "$log"
    # Nor may a broker or a gpsd that we brought start with the machine.
    if [ -d /run/systemd/system ]; then
        if [[ " ${packages[*]} " == *" mosquitto "* ]]; then systemctl --quiet disable mosquitto.service || true; fi
        for own in nats-server prometheus monit; do
            if [[ " ${packages[*]} " == *" $own "* ]]; then systemctl --quiet disable $own.service || true; fi
        done
        if [[ " ${packages[*]} " == *" gpsd "* ]]; then systemctl --quiet disable gpsd.socket gpsd.service || true; fi
    fi
    return $status
}
