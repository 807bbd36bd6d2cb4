"""Plain words: the private language that the glossary retired does not come back, in code, pages or the README."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RETIRED = {
    "picture": "image",
    "twin": "surrogate; frozen copy; same-class pair",
    "painting": "encoded batch",
    "anew": "again",
    "judges": "attribute predictors",
    "judged": "predicted",
    "instruments": "auxiliary models",
    "told": "the thing itself: lines, scores, names",
    "wanted": "expected, requested",
    "astray": "diverges",
    "mend": "fix",
    "laid on": "transferred to, overlaid",
    "takeover": "collapse",
    "remeasured": "measured after the intervention",
    "unread": "unmodeled concepts",
    "colour": "color",
    "randomis": "randomiz",
    "normalis": "normaliz",
    "localis": "localiz",
}
OLD_NAMES = {
    '"--pictures": "--images",',
    '"--twin-grids": "--same-class-grids",',
    '"measure": "predictors" if record.get("measure") == "judges" else record.get("measure", "predictors"),',
}
"""Lines that read what earlier versions wrote or were called with."""

WORDS = {
    word: re.compile(rf"(?<![a-z]){word}(?:s|ed|es|ing|ation|ations|er|ure|ures)?(?![a-z])", re.I) for word in RETIRED
}


def _texts() -> list[Path]:
    folders = ("src/pellucid", "benchmarks", "experiments")
    code = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    pages = [path for kind in ("html", "css", "js") for path in (ROOT / "src/pellucid").rglob(f"*.{kind}")]
    return sorted([*code, *pages, ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def _words(text: str) -> str:
    """Identifiers in parts: `ReadPicture` and `read_picture` hold the word `picture`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", text)


@pytest.mark.parametrize("word", RETIRED)
def test_a_retired_word_is_gone(word: str) -> None:
    places = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:90]}"
        for path in _texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if WORDS[word].search(_words(line)) and line.strip() not in OLD_NAMES
    ]
    assert not places, f"say {RETIRED[word]} for {word}:\n" + "\n".join(places[:30])
