"""The project is written in plain English: phrases that nobody says are found here, wherever a person reads them."""

import re
from pathlib import Path

import pytest

from repository import ROOT

PHRASES = (
    r"begun",
    r"told",
    r"goes on|go on from|gone on|going on from",
    r"as far as",
    r"by that",
    r"so many",
    r"is of|are of",
    r"skeleton",
    r"flesh",
    r"of one mind",
    r"how near",
    r"many-th",
    r"where least",
    r"is no rival",
    r"needs? no leave",
    r"anew",
    r"of no use",
    r"looked for in",
    r"which distances",
)
# Names of earlier versions' files, and this list.
EXEMPT = (
    "pipeline/reconstruction_paths.py",
    "tests/test_words.py",
    "tests/reconstruct/test_reconstruct_input.py",
)
FOLDERS = ("pipeline", "data_prep", "descriptor", "sfm", "benchmarks", "configs", "docs", "tests", "tools")


def texts() -> list[Path]:
    files = [
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml")
    ]
    files += [*ROOT.glob("*.py"), *(path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md")]
    return [path for path in files if str(path.relative_to(ROOT)) not in EXEMPT]


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_text_has_a_phrase_that_nobody_says(phrase: str) -> None:
    pattern = re.compile(rf"\b(?:{phrase.replace(' ', chr(92) + 's+')})\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for path in texts()
        for text in [path.read_text(encoding="utf-8")]
        for match in pattern.finditer(text)
    ]
    assert not found
