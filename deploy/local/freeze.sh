#!/usr/bin/env bash
# Writes constraints.txt anew (`make constraints`): resolves every dependency in a throw-away environment made by bootstrap.sh.
#
# torch keeps its pinned version; set FOREBEAR_TORCH, for example to torch==2.14.1, to pin another one. The GPU extra is
# resolved beside the rest without being installed. bootstrap.sh explains the other variables.

set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -- "$here/../.." && pwd)
constraints=$here/constraints.txt
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch" "$constraints.part"' EXIT

FOREBEAR_TORCH=${FOREBEAR_TORCH:-$(grep '^torch==' "$constraints")} FOREBEAR_CONSTRAINTS=none \
    FOREBEAR_ACCELERATOR=cpu FOREBEAR_VENV=$scratch/venv bash "$here/bootstrap.sh"
python=$scratch/venv/bin/python

# Only what the GPU extra adds: pip reports what it would install on top of the environment that is there.
"$python" -m pip install -qq --disable-pip-version-check --dry-run --no-build-isolation --report "$scratch/gpu.json" \
    -c "$scratch/venv/forebear-constraints.txt" -e "${root}[gpu]"
{
    cat <<HEADER
# Every version of a complete environment: all extras, the build tools, and what the GPU extra adds.
# Resolved with Python $("$python" -c 'import platform; print(platform.python_version())') on $(uname -s) $(uname -m). Written by \`make constraints\`; do not edit.
HEADER
    {
        "$python" -m pip freeze --all --exclude-editable --exclude pip
        "$python" -c '
import json, sys
for item in json.load(open(sys.argv[1]))["install"]:
    if not item["is_direct"]:
        print(item["metadata"]["name"] + "==" + item["metadata"]["version"])
' "$scratch/gpu.json"
    } | sed 's/+.*//' | LC_ALL=C sort --ignore-case --unique
} >"$constraints.part"
mv -- "$constraints.part" "$constraints"
printf 'freeze: wrote %s (%s versions)\n' "$constraints" "$(grep -c == "$constraints")"
