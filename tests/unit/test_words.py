"""Words that stay out of the package and its docs, because readers would need the sentence twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

INSTEAD = {
    r"mend(s|ed|ing)?": "fix",
    r"(un)?heed(s|ed|ing)?": "take effect, obey",
    r"go(es|ing|ne)? on (with|where|after|from)": "continue, resume",
    r"(take|takes|took|taken|taking) back": "roll back",
    r"pass(es|ed|ing) over": "skip, ignore",
    r"put(s|ting)? away": "store, move",
    r"(hold|holds|held|holding) (\w+ )?off": "refuse, delay",
    r"fit to be run": "ready to run",
    r"(typed wrong|wrongly typed)": "misspelt, invalid",
    r"who(ever|m)": "the user, the process",
    r"of which": "two sentences",
    r"(become|becomes|became) of": "the state after, the result of",
    r"(tell|tells|told|telling)": "say, report, show",
    r"(hear|hears|heard) of|unheard": "know, see",
    r"say(s)? of|said of": "say about, describe",
    r"(hand|hands|handed) over": "pass, give",
    r"(go|goes) about": "work, run",
    r"stand(s)? for": "mean, represent",
    r"under way": "running",
    r"vouch(es|ed)?": "authorize",
    r"trails?": "event log",
    r"ledgers?|tellers?|enclosures?": "the name of the thing",
    r"doors?|rooms?|floors?|houses?|desks?|the books": "the name of the thing, without a metaphor",
}
FORBIDDEN = re.compile(
    rf"(?<![\w/.-])(?:{'|'.join(f'(?:{words})' for words in INSTEAD)})(?![\w-])", re.IGNORECASE
)

RETURN_DOCSTRING = re.compile(r'"""Returns? ')
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def blanked(code: re.Match[str]) -> str:
    """Replace code by as many lines, so that the lines below keep their numbers."""
    return "`…`" + "\n" * code[0].count("\n")


def hits(path: Path) -> list[str]:
    """Find the forbidden words of a file: `file:line: word -> what to write: the line`."""
    text = path.read_text("utf-8")
    prose = CODE.sub(blanked, text) if path.suffix == ".md" else text
    lines = text.splitlines()
    return [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r} -> {instead(match[0])}: "
        f"{lines[number - 1].strip()}"
        for match in FORBIDDEN.finditer(prose)
        for number in [prose.count("\n", 0, match.start()) + 1]
    ]


def instead(word: str) -> str:
    """Find what to write instead of a forbidden word."""
    return next(
        better for words, better in INSTEAD.items() if re.fullmatch(words, word, re.IGNORECASE)
    )


def check(paths: list[Path]) -> None:
    assert paths, "no files were found"
    found = [hit for path in sorted(paths) for hit in hits(path)]
    assert not found, "These words need a plainer one:\n" + "\n".join(found)


def test_the_package_uses_plain_words() -> None:
    check(list((ROOT / "flask_migrate_mongo").rglob("*.py")))


def test_the_docs_use_plain_words() -> None:
    check([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def test_docstrings_say_what_a_function_does_and_not_that_it_returns() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "flask_migrate_mongo").rglob("*.py"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if RETURN_DOCSTRING.search(line)
    ]
    assert not found, "Begin these docstrings with another verb:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "sentence",
    [
        "It mends the record.",
        "A run that was gone on with.",
        "One of which is applied.",
        "The step was taken back.",
        "It holds nobody off.",
        "Whoever has the lock.",
    ],
)
def test_a_forbidden_word_is_found_in_its_forms(sentence: str) -> None:
    assert FORBIDDEN.search(sentence)


@pytest.mark.parametrize(
    "sentence", ["Recommend an index.", "The warehouse.", "A trailing slash.", "Untold stories."]
)
def test_a_word_that_only_contains_a_forbidden_one_is_not(sentence: str) -> None:
    assert not FORBIDDEN.search(sentence)
