"""The docstrings' examples run, and the table of formulas points at the lines that it names."""

import doctest
import importlib.util
import pkgutil
from pathlib import Path

import pytest

import mlpkit

DOCS = Path(__file__).parent.parent / "docs"
NUMBA = "compiled|cpu_kernels|cpu_loss|cpu_random|cpu_updates|pieces|product|threads"  # need it
LEFT_OUT = {"mlpkit.__main__"}
if importlib.util.find_spec("numba") is None:
    LEFT_OUT |= {f"mlpkit.backends.{name}" for name in NUMBA.split("|")}
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(mlpkit.__path__, "mlpkit.")
    if module.name not in LEFT_OUT
)


@pytest.mark.parametrize("name", ["mlpkit", *MODULES])
def test_examples_in_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_examples_are_found():
    finder = doctest.DocTestFinder()
    modules = map(importlib.import_module, MODULES)
    examples = [test for module in modules for test in finder.find(module) if test.examples]
    assert len(examples) >= 12


def test_the_formulas_point_at_their_lines():
    spec = importlib.util.spec_from_file_location("renumber", DOCS / "renumber.py")
    renumber = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(renumber)
    page = renumber.PAGE.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if renumber.ROW.match(line)]
    assert len(rows) > 30
    assert len(rows) == page.count("| `"), "a row of the table is not read as one"
    assert renumber.renumbered(page) == page, "run python docs/renumber.py"
