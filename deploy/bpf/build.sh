#!/usr/bin/env bash
# Builds the BPF objects and writes them, with their digests, into agent/edgewarden/kernel/bpf_objects.py.
#
#   bash deploy/bpf/build.sh             rebuild in place (clang-14 and libbpf-dev of Debian 12)
#   bash deploy/bpf/build.sh --check     build in a folder of its own; exit 1 when the module would be another one
#
# Reproducible: no path, no time and no debug section gets in; two builds with one compiler are the same bytes. The module names the
# compiler, since another one may well give others. An object is a list of bytes in a module, not a file beside it: it is measured,
# packaged and read as every other line of this program is.
set -euo pipefail
cd "$(dirname "$0")"
CLANG=${CLANG:-clang-14} STRIP=${STRIP:-llvm-strip-14}
for tool in "$CLANG" "$STRIP"; do
    command -v "$tool" >/dev/null || { echo "build.sh: no $tool here; on Debian: apt install clang-14 llvm-14 libbpf-dev" >&2; exit 69; }
done
module=../../agent/edgewarden/kernel/bpf_objects.py
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for name in exec_stop lsm_probe; do
    # mcpu=v2: every kernel that has ring buffers (5.8) knows it. -g: map definitions are read from .BTF; DWARF is stripped.
    # The multiarch folder holds <asm/types.h>, whose integers are the same on every little-endian machine.
    "$CLANG" -O2 -g -target bpfel -mcpu=v2 -Wall -Werror -fdebug-compilation-dir=. -ffile-prefix-map="$PWD=." \
        -I"/usr/include/$(uname -m)-linux-gnu" -c "$name.bpf.c" -o "$work/$name.o"
    # .BTF.ext holds line numbers for the verifier's log, twice the size of all the rest.
    "$STRIP" -g --remove-section=.BTF.ext --remove-section=.rel.BTF.ext "$work/$name.o"
done

python3 -I - "$work" "$("$CLANG" --version | head -n 1)" >"$work/module.py" <<'PYTHON'
import hashlib, pathlib, sys, textwrap
print('"""The BPF objects: what deploy/bpf/build.sh makes of the sources beside it, never edited by hand.')
print()
print(f"Compiler: {sys.argv[2]}. Little-endian. kernel/libbpf.py loads them.")
print('"""')
for name in ("exec_stop", "lsm_probe"):
    data = pathlib.Path(sys.argv[1], f"{name}.o").read_bytes()
    print(f'\n{name.upper()}_SHA256 = "{hashlib.sha256(data).hexdigest()}"')
    print(f"{name.upper()} = bytes.fromhex(")
    for line in textwrap.wrap(data.hex(), 92):
        print(f'    "{line}"')
    print(")")
PYTHON

if [ "${1:-}" = --check ]; then
    cmp "$work/module.py" "$module"
else
    cp "$work/module.py" "$module"
fi
