"""Shorten messages. The start, which states the problem, and the end, which gives the advice, are kept."""

import math
import re

LINE_LIMIT = 300
_WORD_LIMIT = 80
_GAP = " ... "
_PARAGRAPH_LIMIT = 600
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def one_line(text: str, limit: int = LINE_LIMIT) -> str:
    """The text as one line of at most `limit` characters.

    Long words, such as paths, are shortened first. Then the middle, such as a list, is removed.
    """
    line = " ".join(part.strip() for part in text.splitlines())
    if len(line) <= limit:
        return line
    line = re.sub(rf"\S{{{_WORD_LIMIT + 1},}}", lambda word: _without_middle(word[0], _WORD_LIMIT, "..."), line)
    return _without_middle(line, limit, _GAP)


def shorten_box(text: str) -> str:
    """Remove the middle lines of long paragraphs from a usage error that tyro prints in a box."""
    lines: list[str] = []
    paragraph: list[str] = []
    for line in text.splitlines():
        if set(_ANSI.sub("", line)) <= set(" |│-─"):
            lines += [*_shorten_paragraph(paragraph), line]
            paragraph = []
        else:
            paragraph.append(line)
    return "\n".join([*lines, *_shorten_paragraph(paragraph)])


def _without_middle(text: str, limit: int, gap: str) -> str:
    if len(text) <= limit:
        return text
    head = (limit - len(gap)) // 2
    return text[:head].rstrip() + gap + text[-(limit - len(gap) - head) :].lstrip()


def _shorten_paragraph(lines: list[str]) -> list[str]:
    """Keep whole lines of the box, about as many characters as an error line may have."""
    plain = [_ANSI.sub("", line) for line in lines]
    if sum(len(line.strip(" |│")) for line in plain) <= _PARAGRAPH_LIMIT:
        return lines
    width = max(map(len, plain))
    kept = math.ceil(LINE_LIMIT / 2 / width)
    # The first and last line may be the box's edges.
    side = plain[1][:1]
    gap = f"{side} {'...':<{width - 4}} {side}"
    return [*lines[: kept + 1], gap, *lines[-kept - 1 :]]
