#!/usr/bin/env bash
# Installs Forebear for an image, with every version pinned by deploy/local/constraints.txt: no development tools, and the
# project as a package of its own, not as a link to the sources. Run from the root of the project, torch first:
#
#   deploy/docker/install.sh torch   FOLDER cpu|gpu
#   deploy/docker/install.sh project FOLDER cpu|gpu EXTRAS
#
# Environment variables:
#   FOREBEAR_TORCH_INDEX   the package index to take torch from; default: PyTorch's CPU index for cpu, pip's own for gpu;
#                          empty: pip's own
# pip's own settings hold as well (PIP_INDEX_URL ...).

set -euo pipefail

step=${1:?torch or project}
venv=${2:?the folder of the virtual environment}
accelerator=${3:?cpu or gpu}
constraints=deploy/local/constraints.txt
pins=$venv/constraints.txt
cpu_index=https://download.pytorch.org/whl/cpu

pip_install() {
    "$venv/bin/python" -m pip install -q --no-input --no-cache-dir --disable-pip-version-check "$@"
}

install_torch() {
    local torch index=
    torch=$(grep '^torch==' "$constraints")
    [[ $accelerator == cpu ]] && index=$cpu_index
    index=${FOREBEAR_TORCH_INDEX-$index}
    # The CPU index's builds carry a local version; naming it keeps pip from taking a CUDA build.
    [[ $index == "$cpu_index" ]] && torch=$torch+cpu
    python3 -m venv "$venv"
    # torch chooses its own CUDA packages.
    grep -v -e '^torch==' -e '^nvidia-' "$constraints" >"$pins"
    if [[ -n $index ]]; then
        pip_install --no-deps --index-url "$index" "$torch"
    fi
    pip_install -c "$pins" "$torch"
}

install_project() {
    local extras=$accelerator,$1
    pip_install -c "$pins" hatchling
    pip_install -c "$pins" --no-build-isolation ".[$extras]"
    "$venv/bin/python" -m pip uninstall -q -y hatchling
    "$venv/bin/forebear" --version
}

case $accelerator in
cpu | gpu) ;;
*)
    echo "install: $accelerator is no accelerator: it is cpu or gpu" >&2
    exit 2
    ;;
esac
case $step in
torch) install_torch ;;
project) install_project "${4:?the extras, separated by commas}" ;;
*)
    echo "install: $step is no step: it is torch or project" >&2
    exit 2
    ;;
esac
