"""Pages that a reader types along: their commands with the output that they show, and their files."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

RETYPE = "RETYPE" in os.environ
"""Write the outputs into the pages anew, instead of comparing them: the reader of the diff decides."""

_END = "--- end of the command:"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, what else stands in its first line, and its text."""

    language: str
    facts: Mapping[str, str]
    text: str


@dataclass(frozen=True, slots=True)
class Written:
    """A file that the reader writes."""

    name: str
    source: str

    def write(self, folder: Path) -> None:
        """Write it; a migration goes into the file that `create` has just made for it."""
        path = folder / self.name
        path.parent.mkdir(exist_ok=True, parents=True)
        slug = path.name.partition("_")[2]
        made = sorted(path.parent.glob(f"[0-9]*_{slug}")) if slug else []
        (made[0] if made else path).write_text(self.source, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Typed:
    """A command that the reader types, the output that the page shows, and the kind of server it needs."""

    command: str
    shown: str
    server: str | None = None

    def __str__(self) -> str:
        """Show it as the page does."""
        return f"$ {self.command}"


def blocks(page: Path) -> Iterator[Block]:
    """Find the fenced blocks of a page."""
    for info, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        language, *facts = info.split() or [""]
        yield Block(language, dict(fact.split("=", 1) for fact in facts), text)


def steps(page: Path) -> list[Typed | Written]:
    """List what a reader of the page types and writes, in order."""
    found: list[Typed | Written] = []
    for block in blocks(page):
        if block.language == "console":
            found += _typed(block)
        elif "file" in block.facts:
            found.append(Written(block.facts["file"], block.text))
    return found


def _typed(block: Block) -> Iterator[Typed]:
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            more, _, shown = shown.partition("\n")
            command = f"{command}\n{more}"
        yield Typed(command, shown, block.facts.get("server"))


# --- the output


_VARYING = [
    (r"\((just now|[\w ]+ ago)\)", "(AGO)"),
    (r"(?<![\w.])(\d+ min )?\d+(\.\d+)? (ms|s)\b", "TIME"),
    (r"[\d,]+ documents/s", "RATE documents/s"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "WHEN"),
    (r"(?<!\d)20\d{6}(?=\d{3}(?!\d))", "DAY"),
    (r"\b[0-9a-f]{24}\b", "OBJECTID"),
    (r"\S+@\S+:\d+", "PROCESS"),
    (r"_rehearsal_[0-9a-f]{8}", "_rehearsal_ID"),
    (r" {2,}", " "),
    (r" +$", ""),
]


def steady(text: str) -> str:
    """Replace what differs from one run to the next: times, dates, ids, and the widths of columns."""
    for pattern, instead in _VARYING:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text.strip()


def matches(shown: str, printed: str) -> bool:
    """Whether a command printed what its page shows, where a line `...` means any lines."""
    lines = [
        r"(?:.*\n)*?" if line == "..." else re.escape(line) + "\n"
        for line in steady(shown).splitlines()
    ]
    return re.fullmatch("".join(lines), steady(printed) + "\n" * bool(lines)) is not None


def as_on_a_laptop(printed: str, names: Mapping[str, str]) -> str:
    """Show an output as the computer of the page's reader prints it: `names` are those of here and there."""
    printed = re.sub(r"127\.0\.0\.1:\d+", "localhost:27017", printed)
    printed = re.sub(r"\((standalone|replica set \w+)\)", "(replica set rs0)", printed)
    printed = re.sub(r"\b\w+@[\w.-]+:(?=\d)", "ada@laptop:", printed)
    for here, there in names.items():
        printed = printed.replace(here, there)
    return printed


# --- the terminal


class Shell:
    """A shell that stays open between the commands, as that of a reader does."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["/bin/bash", "--norc"],
            cwd=folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Shell:  # noqa: PYI034  (Self is not in Python 3.10)
        """Give it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def run(self, command: str) -> tuple[int, str]:
        """Run a command, and return its exit code and what it printed on both streams."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # The last command gives the next one its `$?`.
        after = f"code=$?; printf '\\n{_END} %d\\n' $code; (exit $code)\n"
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\n{after}")
        self._process.stdin.flush()
        printed: list[str] = []
        for line in self._process.stdout:
            if line.startswith(_END):
                return int(line.rpartition(" ")[2]), "".join(printed)[:-1]
            printed.append(line)
        msg = f"the shell ended in `{command}`: {''.join(printed)}"
        raise AssertionError(msg)


# --- a reader


def type_along(
    page: Path,
    listed: Sequence[Typed | Written],
    shell: Shell,
    *,
    command: Callable[[str], str] = str,
    shown: Callable[[str], str] = str,
) -> list[str]:
    """Type what a page says, check each output and exit code, and list the commands.

    `command` makes of a command of the page the one for here, and `shown` of an output what the page has to show.
    """
    printed: list[tuple[Typed, str]] = []
    for step, following in zip(listed, [*listed[1:], None], strict=True):
        if isinstance(step, Written):
            step.write(Path(shell.run("pwd")[1].strip()))
            continue
        code, output = shell.run(command(step.command))
        printed.append((step, shown(output)))
        fails = str(following) == "$ echo $?"
        assert bool(code) == fails, f"{step.command} exited with {code}: {output}"
        if not RETYPE:
            assert matches(step.shown, printed[-1][1]), f"{step.command} printed:\n{output}"
    if RETYPE:
        page.write_text(_retyped(page.read_text(encoding="utf-8"), printed), encoding="utf-8")
    return [step.command for step, _ in printed]


def _retyped(text: str, printed: Sequence[tuple[Typed, str]]) -> str:
    """Put what was printed into the text of a page, where it shows something else."""
    done = ""
    for step, output in printed:
        before, found, text = text.partition(f"{step}\n{step.shown}")
        assert found, step
        new = step.shown if matches(step.shown, output) else _shortened(step.shown, output)
        done += f"{before}{step}\n{new}"
    return done + text


def _shortened(shown: str, printed: str) -> str:
    """Leave out the lines of an output that the page leaves out, if it does so once."""
    head, *tails = re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE)
    lines = printed.splitlines(keepends=True)
    if len(tails) != 1:
        return "".join(lines)
    first, last = head.count("\n"), tails[0].count("\n")
    return "".join([*lines[:first], "...\n", *lines[len(lines) - last :]])
