"""The systemd unit: known directives, its command, time to drain; and systemd's own check where it is installed."""

import re
import shutil
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path

from checks.commands import flag_problems
from checks.facts import REQUEST_SECONDS, SERVE_PORT, is_variable

FOLDERS = {"/opt/forebear", "/etc/forebear", "/srv/forebear", "/var/lib/forebear"}
DIRECTIVES = {
    "Unit": {"Description", "Documentation", "After", "Wants"},
    "Install": {"WantedBy"},
    "Service": {
        "Type", "User", "Group", "ExecStart", "Environment", "EnvironmentFile", "StateDirectory",
        "StateDirectoryMode", "WorkingDirectory", "Restart", "RestartSec", "KillMode", "KillSignal",
        "TimeoutStartSec", "TimeoutStopSec", "LimitNOFILE", "LimitCORE", "UMask", "ProtectSystem", "ReadWritePaths",
        "ProtectHome", "PrivateTmp", "PrivateDevices", "NoNewPrivileges", "CapabilityBoundingSet",
        "AmbientCapabilities", "ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs",
        "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "RestrictAddressFamilies",
        "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "RemoveIPC",
        "SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber",
    },
}  # fmt: skip
"""Of systemd 252 and later, as far as they are used here."""
NEEDED = {"User": "forebear", "KillMode": "mixed", "NoNewPrivileges": "yes", "ProtectSystem": "strict"}


def unit_problems(file: Path) -> list[str]:
    found, section, values = [], "", dict[str, list[str]]()
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif line.strip() and not line.startswith("#"):
            name, separator, value = line.partition("=")
            if not separator or name not in DIRECTIVES.get(section, set()):
                found.append(f"{file.name}:{number}: [{section}] has no {name}")
            values.setdefault(name, []).append(value)
    found += [
        f"{file.name}: {name} is {values.get(name)}, not {wanted!r}"
        for name, wanted in NEEDED.items()
        if values.get(name) != [wanted]
    ]
    if float((values.get("TimeoutStopSec") or ["90"])[0]) <= REQUEST_SECONDS:
        found.append(f"{file.name}: TimeoutStopSec is not above limits.seconds, {REQUEST_SECONDS}")
    for one in values.get("Environment", []):
        if not is_variable(one.partition("=")[0]):
            found.append(f"{file.name}: nothing reads the variable {one}")
    return found + _command_problems(values, file) + _folder_problems(file) + _verified(file)


def _command_problems(values: dict[str, list[str]], file: Path) -> list[str]:
    words = (values.get("ExecStart") or [""])[0].split()
    if not words or words[0] != "/opt/forebear/.venv/bin/forebear":
        return [f"{file.name}: ExecStart is not the forebear that `make bootstrap` installs under /opt/forebear"]
    given = dict(pairwise(words))
    found = flag_problems(["forebear", *words[1:]], file.name)
    if (given.get("--host"), given.get("--port")) != ("127.0.0.1", str(SERVE_PORT)):
        found.append(
            f"{file.name}: listens on {given.get('--host')}:{given.get('--port')}, not on 127.0.0.1:{SERVE_PORT}"
        )
    return found


def _folder_problems(file: Path) -> list[str]:
    """Paths of Forebear's own are those of docs/deploying.md."""
    paths = re.findall(r"(?<![\w/.])/(?:opt|etc|srv|var/lib)/[\w-]+", file.read_text(encoding="utf-8"))
    return [f"{file.name}: {path} is none of {sorted(FOLDERS)}" for path in paths if path not in FOLDERS]


def _verified(file: Path) -> list[str]:
    """What `systemd-analyze verify` says, with the command and the user replaced by ones that this machine has."""
    program = shutil.which("systemd-analyze")
    if program is None:
        return []
    text = re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", file.read_text(encoding="utf-8"), flags=re.M)
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / file.name
        unit.write_text(text, encoding="utf-8")
        done = subprocess.run([program, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if file.name in line and "Unknown" in line]
