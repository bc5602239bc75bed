"""Point the table of formulas.md at the lines that hold its code: python docs/renumber.py."""

import re
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "formulas.md"
ROW = re.compile(r"^\| (?P<formula>.+) \| `(?P<code>.+)` \| \[(?P<file>[\w/.]+):\d+\]\(.*\) \|$")


def renumbered(text: str) -> str:
    """The page with the number of the line where each code stands; ValueError where it does not."""
    return "\n".join(map(_renumbered_row, text.split("\n")))


def _renumbered_row(line: str) -> str:
    row = ROW.match(line)
    if row is None:
        return line
    formula, code, file = row["formula"], row["code"], row["file"]
    lines = (DOCS.parent / file).read_text(encoding="utf-8").splitlines()
    found = [number for number, text in enumerate(lines, 1) if code in text]
    if len(found) != 1:
        raise ValueError(f"{file} holds {code!r} in lines {found}, expected one line")
    return f"| {formula} | `{code}` | [{file}:{found[0]}](../{file}#L{found[0]}) |"


if __name__ == "__main__":
    PAGE.write_text(renumbered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
