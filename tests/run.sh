#!/usr/bin/env bash
# Every test this machine can run, from a fresh clone: installs what is missing, runs the tiers, adds them up.
#
#   bash tests/run.sh                    the tiers unit, system and boot
#   bash tests/run.sh --tier unit        one tier; may be given again
#   bash tests/run.sh --beside           the same, boot beside what of system does not measure: saves seven minutes; in its one whole
#                                        run so far a test did not start (test_io_errors, 28 November)
#   bash tests/run.sh --runs 100         how often repeated tests repeat (default: see tests/conftest.py)
#   bash tests/run.sh --tier soak --minutes 1440
#
# unit    the rooms, the laws, ruff and mypy, on the newest versions; the rooms again on Debian 13's versions (floor); wire/
#         against other people's COSE libraries (peers)
# system  what needs root, a broker, ptys, loop mounts or fanotify
# soak    one gateway, disturbed for ten minutes, or as many as --minutes says; runs by name only
# boot    builds the Debian packages and lives through them on a Debian 13 that really boots (hw/rigs/booted.py)
#
# Exit 0: everything ran or stands in tests/allowed-skips.txt with the feature this machine lacks. The last line is the sum.
# A test or two that failed once and pass ten times alone are told as wavering, and are a defect to mend (tests/second_look.py).
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
umask 022
unset PYTHONPATH PYTHONHOME PYTHONOPTIMIZE PYTEST_ADDOPTS VIRTUAL_ENV
export PIP_RETRIES=10 PIP_DEFAULT_TIMEOUT=60 # a mirror may be slow for a moment
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

usage() { sed -n '2,/^set -/{s/^# \{0,1\}//p}' "$0" >&2; exit 64; }

tiers=() runs=() beside=no times=1
while [ $# -gt 0 ]; do
    case $1 in
        --tier) [ $# -ge 2 ] || usage; tiers+=("$2"); shift 2 ;;
        --beside) beside=yes; shift ;;
        --runs | --minutes)
            [[ ${2:-} =~ ^[1-9][0-9]{0,8}$ ]] || usage
            [ "$1" = --minutes ] || times=$((($2 + 19) / 20)) # of the default, tests/conftest.py
            runs+=("$1" "$2")
            shift 2
            ;;
        *) usage ;;
    esac
done
[ ${#tiers[@]} -gt 0 ] || tiers=(unit system boot)
for tier in "${tiers[@]}"; do
    case $tier in unit | system | boot | soak) ;; *) echo "run.sh: there is no tier $tier" >&2; usage ;; esac
done

. requirements/apt.sh
work=$(mktemp -d)
declare -A running=()
finished=no passed=0 failed=0 skipped=0 wavered=
close() {
    code=$?
    trap - EXIT
    apt_guard_down
    for leader in "${running[@]}"; do
        kill -INT -- "-$leader" 2>/dev/null && wait "$leader" || true
    done
    if [ $finished = no ]; then
        failed=$((failed + 1))
        echo "run.sh: stopped before the end (exit $code)"
    fi
    [ "$failed" -eq 0 ] || code=1
    again
    rm -rf "$work"
    echo "total: $passed passed, $failed failed, $skipped skipped$wavered"
    exit "$code"
}
# again: what failed, of every tier, once more: of a long output CI shows the end. A run that did not come to an end has the
# test it was at.
again() {
    local red name
    [ "$failed" -gt 0 ] || return 0
    printf '\n=== what failed\n'
    for red in "$work"/*.tally.now "$work"/*.tally.red; do
        name=${red##*/} name=${name%.tally.*}
        case $red in
            *.red) [ ! -f "$red" ] || sed "s/^/$name: /" "$red" ;;
            *) [ ! -f "$red" ] || [ -s "${red%.now}" ] || sed "s/^/$name: ended in /" "$red" ;;
        esac
    done
}
# second_look: whether what failed did so by chance.
second_look() {
    [ "$failed" -gt 0 ] || return 0
    if .venv/bin/python tests/second_look.py "$work" "$failed"; then
        wavered=", $(cat "$work/wavered") wavered" failed=0
    fi
}
trap close EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- one run of pytest -----------------------------------------------------------------------------------------------

# run LEDGER VENV ARGUMENT...: the ledger's name stands in tests/test-count.txt.
run() {
    local ledger=$1 began=$SECONDS
    printf '\n=== %s (%s)\n' "$ledger" "$2"
    launch "$@"
    finish "$ledger"
    count "$ledger" $((SECONDS - began))
}

# in_memory: from here on tmp_path is in memory, where there is enough of it. What survives on a disk is tier system's matter; a unit test
# that waits for a disk a thousand times is only slow. The mount is in a namespace that ends with the run.
mkdir "$work/memory"
memory=()
in_memory() {
    local mount=(unshare --mount --propagation private sh -c 'mount -t tmpfs -o mode=0755 ew-run "$0" && exec "$@"' "$work/memory")
    if [ "$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)" -gt 6000000 ] && "${mount[@]}" true 2>/dev/null; then
        memory=("${mount[@]}")
    fi
}

# Each run of pytest leads a process group of its own, which close() can end as Ctrl-C would, fixtures and all.
# LEDGER-alone and LEDGER-beside are its parts.
launch() {
    local name=$1 venv=$2 part=()
    shift 2
    case $name in *-alone | *-beside) part=(--part "${name##*-}") ;; esac
    set -m
    "${memory[@]}" "$venv/bin/python" -m pytest -q -p no:cacheprovider --basetemp="$work/memory/$name" \
        -o faulthandler_timeout=$((900 * times)) --durations=12 --durations-min=10 --tier "${name%-*}" --tally "$work/$name.tally" "${part[@]}" "${runs[@]}" "$@" &
    running[$name]=$!
    set +m
}

finish() {
    wait "${running[$1]}" || true
    unset "running[$1]"
}

# count LEDGER SECONDS: adds what start left in the ledger's tally.
count() {
    local ledger=$1 tally=$work/$1.tally p f s
    if [ -s "$tally" ]; then
        read -r p f s <"$tally"
    else
        p=0 f=1 s=0
        echo "run.sh: $ledger did not come to an end"
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    echo "=== $ledger: $p passed, $f failed, $s skipped in $2 s"
}

# together LEDGER: what its parts left, as one; they may not be fewer tests than are recorded.
together() {
    local ledger=$1 recorded p f s sum_p=0 sum_f=0 sum_s=0 part
    recorded=$(awk -v name="$ledger" '$1 == name { print $2 }' tests/test-count.txt)
    for part in alone beside; do
        if [ -s "$work/$ledger-$part.tally" ]; then
            read -r p f s <"$work/$ledger-$part.tally"
        else
            p=0 f=1 s=0
            echo "run.sh: $ledger, $part did not come to an end"
        fi
        sum_p=$((sum_p + p)) sum_f=$((sum_f + f)) sum_s=$((sum_s + s))
    done
    if [ $((sum_p + sum_f + sum_s)) -lt "$recorded" ]; then
        echo "LEDGER tier $ledger: $((sum_p + sum_f + sum_s)) tests, tests/test-count.txt records $recorded" |
            tee -a "$work/$ledger.tally.red"
        sum_f=$((sum_f + 1))
    fi
    echo "$sum_p $sum_f $sum_s" >"$work/$ledger.tally"
}

not_unit=(--ignore=tests/system --ignore=tests/boot --ignore=tests/soak --ignore=tests/bench --ignore=tests/peers)

soon=(-o faulthandler_timeout=$((120 * times))) # no unit test is honest that takes longer

tier_unit() {
    local pids=()
    bash requirements/venv.sh .venv ceiling & pids+=($!)
    bash requirements/venv.sh .venv-floor floor & pids+=($!)
    bash requirements/venv.sh .venv-peers peers & pids+=($!)
    for pid in "${pids[@]}"; do wait "$pid"; done
    # The floor beside the ceiling, one core each; it is shown when the ceiling is done.
    local began=$SECONDS
    in_memory
    # What a test holds does not hang on versions: the longest of the deletion scripts runs once.
    launch floor .venv-floor "${soon[@]}" "${not_unit[@]}" --ignore=tests/rules --ignore=tests/fleet/test_mutation_rest.py tests >"$work/floor.log" 2>&1
    run unit .venv "${soon[@]}" "${not_unit[@]}" tests
    finish floor
    printf '\n=== floor (.venv-floor)\n'
    cat "$work/floor.log"
    count floor $((SECONDS - began))
    run peers .venv-peers "${soon[@]}" tests/peers
    memory=()
}

need_system() {
    apt_need gcc:gcc socat:socat gpsd:gpsd gpsfake:gpsd-clients /usr/include/modbus/modbus.h:libmodbus-dev
    apt_need faketime:faketime cfssl:golang-cfssl "${apt_tpm[@]}"
    bash requirements/venv.sh .venv ceiling
    bash requirements/tpm.sh .venv
    bash requirements/venv.sh .venv-peers peers # the stranger's interpreter: pycose, and no edgewarden
}

need_boot() {
    apt_need systemd-nspawn:systemd-container mmdebstrap:mmdebstrap piuparts:piuparts ssh:openssh-client \
        /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
    bash requirements/venv.sh .venv ceiling
}

tier_system() {
    need_system
    run system .venv tests/system
}

tier_boot() {
    need_boot
    run boot .venv tests/boot
}

# First what measures, alone; then the rest, which mostly waits, with boot beside it.
tier_system_and_boot() {
    need_system
    need_boot
    local began=$SECONDS
    printf '\n=== system (.venv), what measures\n'
    launch system-alone .venv tests/system
    finish system-alone
    printf '\n=== system (.venv), the rest\n'
    local boot_began=$SECONDS
    launch boot .venv tests/boot >"$work/boot.log" 2>&1
    launch system-beside .venv tests/system
    finish system-beside
    together system
    count system $((SECONDS - began))
    finish boot
    printf '\n=== boot (.venv)\n'
    cat "$work/boot.log"
    count boot $((SECONDS - boot_began))
}

tier_soak() {
    bash requirements/venv.sh .venv ceiling
    run soak .venv -o faulthandler_timeout=0 tests/soak # a day is not a hang
}

apt_need mosquitto:mosquitto mosquitto_sub:mosquitto-clients ip:iproute2 mkfs.ext4:e2fsprogs mount:mount \
    unshare:util-linux openssl:openssl nft:nftables strace:strace systemd-analyze:systemd curl:curl \
    nats-server:nats-server promtool:prometheus tinyproxy:tinyproxy-bin microsocks:microsocks haproxy:haproxy
if [[ $beside = yes && " ${tiers[*]} " == *" system "* && " ${tiers[*]} " == *" boot "* ]]; then
    tiers=("${tiers[@]/#boot/}") tiers=("${tiers[@]/#system/system_and_boot}")
fi
for tier in "${tiers[@]}"; do [ -z "$tier" ] || "tier_$tier"; done
second_look
finished=yes
