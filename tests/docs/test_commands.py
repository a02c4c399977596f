"""Commands on every page are what the program takes; those of the README and of the guides run."""

import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from documents import ROOT, SHELL, Block, blocks, calls, commands, name_of, pages

from forebear.cli.main import main

README = ROOT / "README.md"
GUIDES = ROOT / "docs" / "how-to"
FIRST = GUIDES / "own-data.md"
"""Its commands make the images and the run that the others start from."""
OTHERS = [*sorted(set(GUIDES.glob("*.md")) - {FIRST}), ROOT / "docs" / "operations.md"]
QUICK_DOCTOR = "forebear doctor --samples 3 --timesteps 1"
FILE = re.compile(r"# (\S+\.(?:py|yaml))\n")
"""The first line of a block that is a file."""
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|\.\.\.|\$.*|.*\.\.\.")
"""What a page writes where a value goes."""


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_call_of_the_program_is_one_that_it_takes(page: Path) -> None:
    wrong = [f"forebear {' '.join(words)}: {why}" for words in commands(page) if (why := problem(words))]
    assert not wrong


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("forebear embed --run RUN --workers 2 && forebear index --run RUN", ""),
        ("X=1 forebear store remove --id 3 | head", ""),
        ("T=$(forebear token create ana --scope read)", ""),
        ("forebear embed --nonsense", "no such option"),
        ("forebear nonsense", "no such verb"),
        ("forebear store nonsense", "no such verb"),
        ("forebear index --kind fast", "is not one of"),
        ("forebear embed --workers many", "is not a valid integer"),
        ("forebear train a.yaml b.yaml", "too many"),
    ],
)
def test_wrong_calls_are_seen(line: str, why: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```\n{line}    # a remark\n```\n", encoding="utf-8")
    found = [problem(words) for words in commands(page)]
    assert found
    assert all(why in one.lower() if why else not one for one in found)


def test_what_cannot_run_says_why() -> None:
    kept_back = [block for page in (README, FIRST, *OTHERS) for block in blocks(page) if block.not_run]
    assert 0 < len(kept_back) <= 4
    assert all(len(block.not_run) > 20 for block in kept_back)


def problem(words: list[str]) -> str:
    """Why click would not take these arguments; empty when it would, whatever is missing."""
    rest = [word for word in words if not re.fullmatch(r"\.\.\.|\[.*\]?(?:\.\.\.)?", word)]  # [OPTIONS] of a usage line
    command, context = main, click.Context(main, info_name="forebear")
    while isinstance(command, click.Group):
        if not rest or rest[0].startswith("-"):  # forebear --help
            break
        name = rest.pop(0)
        if PLACEHOLDER.fullmatch(name):
            return ""
        found = command.get_command(context, name)
        if found is None:
            return f"no such verb {name}"
        context, command = click.Context(found, context, info_name=name), found
    return _refusal(command, context, rest)


def _refusal(command: click.Command, context: click.Context, words: list[str]) -> str:
    # A page shortens options to `--option`; those with a value are given one.
    takes = {name for one in command.params if isinstance(one, click.Option) and not one.is_flag for name in one.opts}
    if words and words[-1] in takes:
        words.append("VALUE")
    try:
        given, left, order = command.make_parser(context).parse_args(words)
    except click.UsageError as refused:
        return refused.format_message()
    if left:
        return f"too many arguments: {left}"
    for parameter in dict.fromkeys(order):
        value = given.get(parameter.name or "")
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) and not PLACEHOLDER.fullmatch(one) for one in values):
            continue
        try:
            if not isinstance(parameter.type, click.Path):
                parameter.type_cast_value(context, value)
        except click.UsageError as refused:
            return refused.format_message()
    return ""


def test_the_first_guide_leads_to_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verbs from images to an answer, in this process; `test_the_guide_runs` takes the shell and all of them."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(FIRST):
        if name := FILE.match(block.text):
            Path(name[1]).write_text(block.text, encoding="utf-8")
            if name[1].endswith(".py"):
                runpy.run_path(name[1])
        for words in calls(block.text) if block.language == "bash" else ():
            if words[0] in {"data", "train", "embed", "index", "attribute"}:
                done = CliRunner().invoke(main, words)
                assert done.exit_code == 0, done.output
    assert "red heart" in Path("photos/red-heart.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which somebody has followed the first guide; `runs/demo` is its run, with a picture of a heart."""
    place = tmp_path_factory.mktemp("reader")
    (place / "tests").symlink_to(ROOT / "tests")
    follow(FIRST, place)
    shutil.copytree(place / "runs" / "photos", place / "runs" / "demo")
    (place / "runs" / "demo" / "pictures").mkdir()
    shutil.copy(place / "photos" / "red-heart.png", place / "runs" / "demo" / "pictures" / "red-heart.png")
    return place


@pytest.fixture
def reader(followed: Path, tmp_path: Path) -> Path:
    """A copy of that folder, which a test may change."""
    place = tmp_path / "reader"
    shutil.copytree(followed, place, symlinks=True)
    return place


def follow(page: Path, place: Path) -> None:
    """Do what a page says, from above to below: write its files, run its commands."""
    for block in blocks(page):
        name = FILE.match(block.text)
        if block.not_run:
            continue
        if name:
            (place / name[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and "import" in block.text:
            run(place, [sys.executable, "-c", block.text])
        elif block.language in SHELL[1:]:
            run(place, ["bash", "-euo", "pipefail", "-c", block.text.replace("forebear doctor", QUICK_DOCTOR)])


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def run(place: Path, arguments: list[str]) -> str:
    """What it printed; fails unless it succeeded."""
    done = subprocess.run(arguments, cwd=place, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_first_guide_ends_with_a_report(followed: Path) -> None:
    report = (followed / "photos" / "red-heart.html").read_text(encoding="utf-8")
    assert "red heart" in report
    assert "artist" in report
    assert (followed / "runs" / "photos" / "evaluation" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("guide", OTHERS, ids=name_of)
def test_the_guide_runs(guide: Path, reader: Path) -> None:
    follow(guide, reader)


def readme_block(containing: str, language: str = "") -> Block:
    return next(one for one in blocks(README) if one.language == language and containing in one.text)


@pytest.mark.slow
def test_the_readme_answers_for_own_data(reader: Path) -> None:
    shutil.rmtree(reader / "runs" / "photos")
    shutil.copy(reader / "photos" / "red-heart.png", reader / "picture.png")
    run(reader, ["bash", "-euo", "pipefail", "-c", readme_block("forebear train").text])
    assert "red heart" in (reader / "picture.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_readme_prints_twelve_proponents(reader: Path) -> None:
    printed = run(reader, [sys.executable, "-c", readme_block("import forebear", "python").text]).splitlines()
    assert len(printed) == 12
    assert re.fullmatch(r"1 [+-]\S+ \w+ (?:heart|flag)", printed[0])


@pytest.fixture
def server(reader: Path) -> Iterator[tuple[str, str]]:
    """Address and token of what the README says to serve."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = readme_block("forebear serve").text.splitlines()[0].split("#")[0]
    log = (reader / "log").open("w+")
    served = subprocess.Popen(
        [*line.split(), "--port", str(port)], cwd=reader, env=environment(), stdout=log, stderr=log, text=True
    )
    try:
        until = time.monotonic() + 500
        while "serving" not in (told := (reader / "log").read_text()) and time.monotonic() < until:
            assert served.poll() is None, told
            time.sleep(1)
        yield f"http://127.0.0.1:{port}", re.findall(r"fb_\S+", told)[0]
    finally:
        served.send_signal(signal.SIGTERM)
        served.wait(180)
        log.close()


@pytest.mark.slow
def test_the_readme_calls_the_api(server: tuple[str, str], tmp_path: Path) -> None:
    address, token = server
    lines = readme_block("forebear serve").text.split("\n", 1)[1].replace("http://127.0.0.1:8000", address)
    printed = run(tmp_path, ["bash", "-euo", "pipefail", "-c", f"TOKEN={token}\n{lines}"])
    assert "event: picture" in printed
    assert "event: attribution" in printed
