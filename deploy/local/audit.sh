#!/usr/bin/env bash
# Asks an advisory service about every version of constraints.txt (`make audit`): known vulnerabilities, by pip-audit.
#
# pip-audit gets an environment of its own, so that what it needs is no dependency of Forebear's. Nothing but names and
# versions goes out: to the package index's advisories, or with FOREBEAR_ADVISORIES=osv to those of osv.dev. Exit code 1:
# there are findings. bootstrap.sh explains the other variables.

set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -- "$here/../.." && pwd)
python=${FOREBEAR_VENV:-$root/.venv}/bin/python
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
read -r -a pip_args <<<"${FOREBEAR_PIP_ARGS:-}"

"$python" -m pip check
"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -qq --no-input --disable-pip-version-check "${pip_args[@]}" pip-audit || {
    printf 'audit: pip-audit could not be installed: pip says why above\n' >&2
    exit 2
}
# --no-deps: the file names every version, so nothing has to be resolved or downloaded. --strict: a version of which the
# service knows nothing is a failure, since an index without advisories would otherwise find nothing to say.
"$scratch/venv/bin/pip-audit" --requirement "$here/constraints.txt" --no-deps --disable-pip --strict --progress-spinner off \
    --vulnerability-service "${FOREBEAR_ADVISORIES:-pypi}" "$@"
