#!/usr/bin/env bash
# The benchmarks: every figure beside a peer or a limit measured in the same run.
#
#   bash tests/bench/run.sh                        all rows, about fifteen minutes on two cores
#   bash tests/bench/run.sh --json FILE            the same, and the rows as JSON (edgewarden.bench/1)
#   bash tests/bench/run.sh --markdown FILE        and as the table of docs/performance.md
#   bash tests/bench/run.sh --only ID-PREFIX       only rows whose id begins so: footprint., gate., data.commit ...
#
# Installs what is missing. As root it measures everything; without, rows that need a filesystem of their own say so.
# Everything it starts ends by its pid, everything it mounts is unmounted. tests/bench/README.md says how to read it.
set -euo pipefail
began=$PWD
cd "$(dirname "$0")/../.."
exec </dev/null
umask 022
unset PYTHONPATH PYTHONHOME PYTHONOPTIMIZE PYTHONDONTWRITEBYTECODE LD_LIBRARY_PATH LD_PRELOAD VIRTUAL_ENV
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# FILE is meant from where the caller stands.
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --json | --markdown) [ $# -ge 2 ] || { echo "run.sh: $1 needs a file" >&2; exit 64; }
            case $2 in /*) file=$2 ;; *) file=$began/$2 ;; esac
            arguments+=("$1" "$file"); shift 2 ;;
        *) arguments+=("$1"); shift ;;
    esac
done

. requirements/apt.sh
trap apt_guard_down EXIT
apt_need mosquitto:mosquitto mount:mount openssl:openssl strace:strace nft:nftables ip:iproute2 mosquitto_pub:mosquitto-clients "${apt_tpm[@]}" \
    /usr/sbin/collectd:collectd-core prometheus-node-exporter:prometheus-node-exporter monit:monit
bash requirements/venv.sh .venv ceiling
bash requirements/venv.sh .venv-thingsboard thingsboard
bash requirements/tpm.sh .venv
# As an installed package is: link runs as a user who could not keep what it compiles.
.venv/bin/python -m compileall -q agent
.venv/bin/python -m tests.bench.run "${arguments[@]}"
