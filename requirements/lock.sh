#!/usr/bin/env bash
# Writes requirements/*.txt anew from requirements/*.in: every version and hash for CPython 3.11 and later, any
# architecture, and no index address (pip's own configuration says where packages come from).
#
#   bash requirements/lock.sh            take what is newest today
#   bash requirements/lock.sh --keep     keep the locked versions where they still satisfy the .in files
set -euo pipefail
cd "$(dirname "$0")"

keep=${1:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
/usr/bin/python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet uv

for name in ceiling floor peers thingsboard tpm; do
    out=$work/$name.txt constraint=()
    # A layer on the ceiling must not move what lies below it.
    if [ "$name" = tpm ]; then constraint=(--constraint ceiling.txt); fi
    if [ "$keep" = --keep ] && [ -f "$name.txt" ]; then cp "$name.txt" "$out"; fi
    "$work/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header "${constraint[@]}" --output-file "$out" "$name.in" >&2
    {
        echo "# Made by requirements/lock.sh from requirements/$name.in: edit that one, then run the script."
        sed '/^# Made by /d' "$out"
    } >"$name.txt"
    if grep -qE '://|index-url' "$name.txt"; then
        echo "lock.sh: $name.txt names an address" >&2
        exit 1
    fi
done
