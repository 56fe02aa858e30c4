#!/usr/bin/env bash
# Makes or refreshes a virtual environment from a lock file; does nothing when it is already true to it.
#
#   bash requirements/venv.sh .venv ceiling          for figures, the demo and most tests
#   bash requirements/venv.sh .venv-floor floor      Debian 13's versions
#   bash requirements/venv.sh .venv-peers peers      other people's COSE libraries
#   bash requirements/venv.sh .venv-thingsboard thingsboard   the gateway that the bench measures beside ours
#
# ceiling and floor get the package itself in editable form; the others do not: a stranger has no edgewarden.
# Always from /usr/bin/python3, so that figures compare. Messages go to stderr.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$1 lock=requirements/$2.txt
stamp=$venv/.made-from
want=$(cat "$lock" pyproject.toml requirements/venv.sh <(/usr/bin/python3 -V) | sha256sum | cut -d' ' -f1)
if [ -L "$venv" ]; then # --clear below would empty what it leads to, under the feet of whoever uses it
    echo "venv: $venv is a link; make or refresh the environment where it lies" >&2
    exit 1
fi
[ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ] || exit 0

echo "venv: making $venv from $lock" >&2
/usr/bin/python3 -m venv --clear "$venv" >&2
pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input --quiet)
built=()
# There is no wheel of it, and nothing but the bench imports it.
if [ "$2" = thingsboard ]; then built=(--no-binary jsonpath-rw); fi
"${pip[@]}" install --require-hashes --only-binary :all: "${built[@]}" --requirement "$lock" >&2
if [ "$2" = ceiling ] || [ "$2" = floor ]; then
    "${pip[@]}" install --no-deps --no-build-isolation --no-index --editable . >&2
fi
echo "$want" >"$stamp"
