#!/usr/bin/env bash
# From a fresh Debian machine to signed health data that a verifier believes.
#
#   bash deploy/demo.sh                 installs what is missing, starts everything, shows what flows; Ctrl-C ends all of it
#   bash deploy/demo.sh --once --json   ends by itself and prints one JSON object on stdout, everything else on stderr
#
# As root it also stops a program that is not on the allowlist, on a private filesystem of its own. Without root it says that it
# does not. Nothing is started that is not stopped again by its pid; nothing outside this checkout and a temporary folder is
# written, except Debian packages that were missing.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
umask 022
unset PYTHONPATH PYTHONHOME PYTHONOPTIMIZE VIRTUAL_ENV
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

. requirements/apt.sh
trap apt_guard_down EXIT
apt_need mosquitto:mosquitto mount:mount openssl:openssl
bash requirements/venv.sh .venv ceiling

# The release artefact: what the fleet's reference values are computed from.
wheels=$(mktemp -d)
trap 'apt_guard_down; rm -rf "$wheels"' EXIT
.venv/bin/python -m pip --disable-pip-version-check --quiet wheel --no-deps --no-build-isolation --no-index \
    --wheel-dir "$wheels" . >&2

status=0
.venv/bin/python deploy/demo/main.py --wheel "$wheels"/edgewarden-*.whl "$@" || status=$?
exit $status
