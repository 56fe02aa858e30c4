#!/usr/bin/env bash
# Lays the TPM binding (requirements/tpm.txt, ADR 25) on a virtual environment that requirements/venv.sh made; does
# nothing when it is there, or where Debian's libtss2-dev and a compiler are not: tests that need it say so and skip.
#
#   bash requirements/tpm.sh .venv
#
# Messages go to stderr.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$1 lock=requirements/tpm.txt
stamp=$venv/.tpm-from
if [ ! -e /usr/include/tss2/tss2_esys.h ] || ! command -v gcc >/dev/null; then
    echo "venv: no libtss2-dev or no gcc, so no TPM binding in $venv" >&2
    exit 0
fi
want=$(cat "$lock" requirements/tpm.sh "$venv/.made-from" | sha256sum | cut -d' ' -f1)
if [ -L "$venv" ]; then
    echo "venv: $venv is a link; lay the TPM binding where it lies" >&2
    exit 1
fi
[ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ] || exit 0

echo "venv: building the TPM binding into $venv (half a minute)" >&2
pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input --quiet)
tools=$(mktemp)
trap 'rm -f "$tools"' EXIT
# It comes as source only, and is built by what the same lock pins: never by what an isolated build would fetch.
awk '/^tpm2-pytss==/ {skip = 1; next} /^[a-z]/ {skip = 0} !skip' "$lock" >"$tools"
"${pip[@]}" install --require-hashes --only-binary :all: --requirement "$tools" >&2
"${pip[@]}" install --require-hashes --no-build-isolation --requirement "$lock" >&2
echo "$want" >"$stamp"
