"""Looking things up by the name a user typed."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

Thing = TypeVar("Thing")


def look_up(kind: str, name: object, table: Mapping[str, Thing]) -> Thing:
    """What `table` holds under `name`, or a ValueError that suggests the nearest name."""
    if isinstance(name, str) and name in table:
        return table[name]
    raise unknown_name(kind, name, table)


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is not known: it suggests the nearest and lists them all."""
    from difflib import get_close_matches

    known = sorted(known)
    nearest = get_close_matches(str(name).lower(), known, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return ValueError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known)})")
