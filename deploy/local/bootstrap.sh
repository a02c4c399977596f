#!/usr/bin/env bash
# Makes the virtual environment that every `make` command runs in. Safe to run again: it does nothing when nothing changed.
#
# It finds a Python, creates the environment, puts a CPU build of torch in first when no NVIDIA GPU is seen (the default
# build carries several GB of CUDA libraries), then installs this project with every version pinned by constraints.txt.
#
# Environment variables:
#   FOREBEAR_PYTHON        the Python (3.11 or newer) to make the environment with; default: the first one found
#   FOREBEAR_VENV          where the environment lies; default: .venv in the project's root
#   FOREBEAR_ACCELERATOR   cpu or gpu: which builds of torch and FAISS; default: gpu when nvidia-smi lists one
#   FOREBEAR_TORCH         which torch, as a pip requirement; default: the version that constraints.txt pins
#   FOREBEAR_TORCH_INDEX   the package index to take torch from; default: PyTorch's CPU index for cpu, pip's own for gpu;
#                          empty: pip's own
#   FOREBEAR_PIP_ARGS      further arguments to every `pip install`, separated by blanks
#   FOREBEAR_CONSTRAINTS   another constraints file, or `none` to resolve every version anew (freeze.sh does so)
# pip's own settings hold as well: PIP_INDEX_URL names another package index, PIP_FIND_LINKS a folder of wheels, and so on.
# A torch wheel in such a folder is taken before any index is asked.

set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -- "$here/../.." && pwd)
venv=${FOREBEAR_VENV:-$root/.venv}
constraints=${FOREBEAR_CONSTRAINTS:-$here/constraints.txt}
cpu_index=https://download.pytorch.org/whl/cpu
read -r -a pip_args <<<"${FOREBEAR_PIP_ARGS:-}"

say() { printf 'bootstrap: %s\n' "$*"; }
die() {
    printf 'bootstrap: %s\n' "$*" >&2
    exit 1
}

# The major and minor version of a Python, or nothing when it does not run (a version manager's shim may not).
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

# Whether a version such as 3.9 is 3.11 or newer.
is_new_enough() {
    [[ $1 =~ ^([0-9]+)\.([0-9]+)$ ]] && ((BASH_REMATCH[1] > 3 || (BASH_REMATCH[1] == 3 && BASH_REMATCH[2] >= 11)))
}

# Prints the Python to make the environment with. 3.11 comes first because constraints.txt was resolved with it.
find_python() {
    local candidates=(python3.11 python3 python3.12 python3.13) candidate version without_venv=
    if [[ -n ${FOREBEAR_PYTHON:-} ]]; then
        candidates=("$FOREBEAR_PYTHON")
        version=$(python_version "$FOREBEAR_PYTHON")
        [[ -n $version ]] || die "FOREBEAR_PYTHON=$FOREBEAR_PYTHON does not run: name a Python 3.11 or newer"
        is_new_enough "$version" ||
            die "FOREBEAR_PYTHON=$FOREBEAR_PYTHON is Python $version, but Forebear needs 3.11 or newer: name a newer one"
    fi
    for candidate in "${candidates[@]}"; do
        version=$(python_version "$candidate")
        is_new_enough "$version" || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
        without_venv=$version
    done
    [[ -z $without_venv ]] ||
        die "Python $without_venv has no venv module: install it (Debian: apt-get install python3-venv) and run this again"
    die "no Python 3.11 or newer was found: install one, or set FOREBEAR_PYTHON to it"
}

find_accelerator() {
    case ${FOREBEAR_ACCELERATOR:-} in
    cpu | gpu) printf '%s\n' "$FOREBEAR_ACCELERATOR" ;;
    '') if [[ "$(nvidia-smi -L 2>/dev/null || true)" == GPU\ * ]]; then echo gpu; else echo cpu; fi ;;
    *) die "FOREBEAR_ACCELERATOR=$FOREBEAR_ACCELERATOR: it is cpu or gpu" ;;
    esac
}

find_torch() {
    local pinned
    pinned=$(grep -s '^torch==' "$constraints" || true)
    [[ -n ${FOREBEAR_TORCH:-$pinned} ]] || die "$constraints pins no torch: set FOREBEAR_TORCH, for example to torch==2.13.0"
    printf '%s\n' "${FOREBEAR_TORCH:-$pinned}"
}

pip_install() {
    "$python" -m pip install -qq --no-input --disable-pip-version-check "${pip_args[@]}" "$@"
}

# The version of a package in the environment, or nothing.
installed() {
    "$python" -c 'import sys; from importlib.metadata import version; print(version(sys.argv[1]))' "$1" 2>/dev/null || true
}

has_room_for() {
    local gigabytes=$1 free
    free=$(df -Pk -- "$(dirname -- "$venv")" 2>/dev/null | awk 'NR == 2 {print int($4 / 1048576)}') || return 0
    [[ -z $free || $free -ge $gigabytes ]]
}

make_environment() {
    local chosen version
    version=$(python_version "$python")
    if [[ -e $venv && ! -e $venv/pyvenv.cfg && -n "$(ls -A -- "$venv")" ]]; then
        die "$venv holds other files and is no virtual environment: move them away, or set FOREBEAR_VENV to another folder"
    fi
    if is_new_enough "$version"; then
        if [[ -n ${FOREBEAR_PYTHON:-} && $version != "$(python_version "$FOREBEAR_PYTHON")" ]]; then
            die "$venv holds Python $version, not that of FOREBEAR_PYTHON: remove it, or set FOREBEAR_VENV to another folder"
        fi
    else
        chosen=$(find_python)
        has_room_for 4 || die "less than 4 GB are free beside $venv: make room, or set FOREBEAR_VENV to another disk"
        say "making $venv with Python $(python_version "$chosen")"
        "$chosen" -m venv --clear "$venv" || die "$chosen could not make $venv: its own message is above"
    fi
    "$python" -c 'import pip' 2>/dev/null || "$python" -m ensurepip >/dev/null || die "$venv has no pip: remove it"
}

# Takes the torch that is there already or in a folder of wheels known to pip; else from an index.
install_torch() {
    local requirement=$torch
    if pip_install --no-index --no-deps "$torch" 2>/dev/null; then
        return
    fi
    if [[ -n $torch_index ]]; then
        # The CPU index's builds carry a local version; naming it keeps pip from taking another index's CUDA build.
        [[ $torch_index == "$cpu_index" && $torch =~ ^torch==[0-9.]+$ ]] && requirement=$torch+cpu
        say "installing $requirement from $torch_index"
        if pip_install --no-deps --timeout 20 --retries 1 --index-url "$torch_index" "$requirement"; then
            return
        fi
        [[ -z ${FOREBEAR_TORCH_INDEX:-} ]] || die "$requirement is not to be had from FOREBEAR_TORCH_INDEX=$torch_index"
        say "it is not to be had there; pip's own index has it, but on Linux with several GB of CUDA libraries"
    fi
    say "installing $torch from pip's own index"
    pip_install "$torch" || die "$torch could not be installed: pip's message is above. $network_hint"
}

install_project() {
    local pins=$venv/forebear-constraints.txt extra=$accelerator other=faiss-gpu
    # FAISS for GPUs is built for x86_64 alone. Its two builds hold the same module, so the other one has to go first.
    [[ $extra == gpu && $(uname -m) != x86_64 ]] && extra=cpu
    [[ $extra == gpu ]] && other=faiss-cpu
    [[ -z $(installed "$other") ]] || "$python" -m pip uninstall -qq -y "$other"
    # torch stays as it was chosen, whatever the committed file says.
    : >"$pins.part"
    [[ $constraints == none ]] || grep -v '^torch==' "$constraints" >>"$pins.part"
    printf 'torch==%s\n' "$(installed torch)" >>"$pins.part"
    mv -- "$pins.part" "$pins"
    say "installing Forebear and what it needs (a minute or two the first time)"
    # The build tools go into the environment, so that they are pinned too (pip's isolated builds take the newest).
    pip_install -c "$pins" hatchling editables || die "hatchling could not be installed: pip's message is above. $network_hint"
    pip_install -c "$pins" --no-build-isolation -e "${root}[$extra,demo,dashboard,serve,postgres,dev]" ||
        die "Forebear could not be installed: pip's message is above. $network_hint"
}

# One line of text that changes whenever the environment has to be made again.
wanted() {
    local files=("$root/pyproject.toml" "${BASH_SOURCE[0]}")
    [[ $constraints == none ]] || files+=("$constraints")
    {
        cat -- "${files[@]}"
        printf '%s\n' "$root" "$venv" "$torch" "$torch_index" "$accelerator" "${pip_args[*]}"
    } | sha256sum
}

works() { "$python" -c 'import forebear, torch' 2>/dev/null; }

python=$venv/bin/python
stamp=$venv/forebear-bootstrap
network_hint="If it speaks of the network, check that, or set PIP_INDEX_URL to a package index that this machine reaches"
[[ $constraints == none || -r $constraints ]] || die "$constraints cannot be read: it holds the pinned versions"
[[ -z ${FOREBEAR_PYTHON:-} ]] || find_python >/dev/null
accelerator=$(find_accelerator)
torch=$(find_torch)
torch_index=
# PyTorch's CPU index is for Linux; elsewhere the default build is a CPU build already.
[[ $accelerator == cpu && $(uname -s) == Linux ]] && torch_index=$cpu_index
torch_index=${FOREBEAR_TORCH_INDEX-$torch_index}

now=$(wanted)
if [[ -r $stamp && $(<"$stamp") == "$now" ]] && works; then
    say "$venv is up to date"
    exit 0
fi
rm -f -- "$stamp"
make_environment
install_torch
install_project
works || die "the installed environment cannot import forebear and torch: $python -c 'import forebear, torch' says why"
printf '%s\n' "$now" >"$stamp"
say "$venv is ready (torch $(installed torch), FAISS for $accelerator)"
