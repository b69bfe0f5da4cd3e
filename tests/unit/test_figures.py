"""The figures of the package: what is counted, and how it is shown."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from typing import TYPE_CHECKING

from benchmarks import figures
from benchmarks.calls import CallCounter

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def package(root: Path, **files: str) -> Path:
    """Write a package; `a__b` is the file `a/b.py`."""
    for name, source in files.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
    return root


SOURCE = """
from typing import Any


class Plan:
    class Meta:
        pass

    def run(self, value: Any) -> None:
        import json

        def inner():
            from os import path

        print(value)  # noqa: T201


async def wait():
    pass
"""


def test_lines_functions_imports_and_words_are_counted(tmp_path: Path) -> None:
    (module,) = figures.read_package(package(tmp_path, plans__step=SOURCE))
    assert (module.lines, module.local_imports, module.noqa, module.any_words) == (19, 2, 1, 2)
    named = [(function.name, function.lines) for function in module.functions]
    assert sorted(named) == [
        ("plans/step.py:inner", 2),
        ("plans/step.py:run", 7),
        ("plans/step.py:wait", 2),
    ]


def test_a_class_name_that_two_modules_define_is_listed_with_both_of_them(tmp_path: Path) -> None:
    root = package(tmp_path, a=SOURCE, b="class Plan: pass\nclass Step: pass\n")
    assert figures.shared_names(figures.read_package(root)) == {"Plan": ("a.py", "b.py")}


def test_modules_in_folders_are_not_at_the_top(tmp_path: Path) -> None:
    root = package(tmp_path, a=SOURCE, b__c=SOURCE)
    rows = figures.static_rows(figures.read_package(root))
    assert (rows["modules"], rows["modules at the top of the package"]) == ("2", "1")
    assert rows["longest function"] == "7 (a.py:run)"


def test_a_percentile_is_a_value_that_so_large_a_share_does_not_exceed() -> None:
    assert figures.percentile(range(1, 101), 0.95) == 95
    assert figures.percentile([3], 0.95) == 3


def test_checkouts_stand_side_by_side_in_the_table() -> None:
    table = figures.table({"before": {"lines": "19,398"}, "after": {"lines": "15,000"}})
    assert table.splitlines() == [
        "|       | before | after  |",
        "| ----- | ------ | ------ |",
        "| lines | 19,398 | 15,000 |",
    ]


# --- calls


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counted(root: Path, module: ModuleType, *args: object) -> CallCounter:
    """Count what `main` of a module calls in a folder."""
    counter = CallCounter(root)
    sys.setprofile(counter)
    try:
        module.main(*args)
    finally:
        sys.setprofile(None)
    return counter


def test_a_call_from_another_file_of_the_package_is_a_change_of_file(tmp_path: Path) -> None:
    root = package(
        tmp_path,
        first="def main(other): here(); other.there(); other.there()\ndef here(): pass\n",
        second="def there(): return nearby()\ndef nearby(): return [n for n in (1, 2)]\n",
    )
    counter = counted(root, load(root / "first.py"), load(root / "second.py"))
    names = {code.co_name: calls for code, calls in counter.calls.items()}
    assert names == {"main": 1, "here": 1, "there": 2, "nearby": 2}
    assert counter.file_changes == 2


def test_functions_outside_the_package_do_not_count_and_hide_no_change_of_file(
    tmp_path: Path,
) -> None:
    outside = package(tmp_path / "outside", third="def through(call): call()\n")
    root = package(
        tmp_path / "package",
        first="def main(through, call): through(call)\n",
        second="def there(): pass\n",
    )
    through = load(outside / "third.py").through
    counter = counted(root, load(root / "first.py"), through, load(root / "second.py").there)
    assert (sum(counter.calls.values()), counter.file_changes) == (2, 1)


def test_a_generator_counts_once_and_the_body_of_a_class_does_not(tmp_path: Path) -> None:
    root = package(
        tmp_path,
        first="""
        def main():
            class Local:
                pass
            list(numbers())

        def numbers():
            yield 1
            yield 2
        """,
    )
    counter = counted(root, load(root / "first.py"))
    names = {code.co_name: calls for code, calls in counter.calls.items()}
    assert names == {"main": 1, "numbers": 1}
