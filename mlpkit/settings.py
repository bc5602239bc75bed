"""Hyper-parameters: a number, or one number per member; how they are checked and written down."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any

import numpy as np

from mlpkit.backends.names import look_up

PerMember = float | Sequence[float]


def number(name: str, value: Any, low: float = 0.0, below: float = math.inf) -> PerMember:
    """`value` as a float, or one float per member as a tuple, each in [low, below).

    Raises TypeError for what is no number and ValueError for one out of range.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        if len(value) == 0:
            raise ValueError(f"{name} is empty: give a number, or one per member")
        return tuple(one_number(f"{name}[{k}]", v, low, below) for k, v in enumerate(value))
    return one_number(name, value, low, below)


def one_number(name: str, value: Any, low: float = 0.0, below: float = math.inf) -> float:
    """`value` as a float in [low, below), the same for all members."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not low <= float(value) < below:
        raise ValueError(f"{name} must lie in [{low:g}, {below:g}), got {value!r}")
    return float(value)


def assign(thing: Any, **fields: Any) -> None:
    """Set fields of a frozen dataclass, in its `__post_init__`, as they have been checked."""
    for name, value in fields.items():
        object.__setattr__(thing, name, value)


def per_member(function: Callable[[float], float], value: PerMember) -> PerMember:
    """The function of a hyper-parameter, or of each member's."""
    return tuple(map(function, value)) if isinstance(value, Sequence) else function(value)


def flag(name: str, value: Any) -> bool:
    """`value`, which is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is True or False, got {value!r}")
    return bool(value)


def whole(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_kinds(
    name: str, things: Any, kind: type[Any], example: str, members: int | None
) -> tuple[Any, ...]:
    """A list of things of one kind, all of which go with the members, as a tuple."""
    if not isinstance(things, Iterable):
        raise TypeError(f"{name} is a list such as [{example}], got {things!r}")
    checked = tuple(things)
    for thing in checked:
        if not isinstance(thing, kind):
            raise TypeError(f"expected a {kind.__name__} such as {example}, got {thing!r}")
        check_members(type(thing).__name__, thing.hyper(), members)
    return checked


def check_members(owner: str, hyper: Mapping[str, PerMember], members: int | None) -> None:
    """Raise ValueError where a hyper-parameter has one value per member but not K of them."""
    for name, value in hyper.items():
        if isinstance(value, tuple) and len(value) != members:
            have = "is a single network" if members is None else f"has {members} members"
            raise ValueError(f"{owner}: {name} has {len(value)} values, but the network {have}")


def to_settings(thing: Any) -> dict[str, Any]:
    """A dataclass as a JSON-able dict of its fields, with the name of its type."""
    named = {field.name: getattr(thing, field.name) for field in fields(thing)}
    return {"type": type(thing).__name__} | {n: _written(value) for n, value in named.items()}


def _written(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_written(part) for part in value]
    return to_settings(value) if hasattr(value, "__dataclass_fields__") else value


def from_settings(settings: Any, types: Mapping[str, type]) -> Any:
    """What `to_settings` wrote, built again from the given types.

    Raises ValueError where the settings name another type or do not fit its fields.
    """
    if not isinstance(settings, dict) or "type" not in settings:
        raise ValueError(f"expected settings with a type, got {settings!r}")
    kind = look_up("type", settings["type"], types)
    values = {n: _read(value, types) for n, value in settings.items() if n != "type"}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"settings of {kind.__name__} do not fit: {error}") from error


def _read(value: Any, types: Mapping[str, type]) -> Any:
    if isinstance(value, list):  # JSON has no tuples
        return tuple(_read(part, types) for part in value)
    return from_settings(value, types) if isinstance(value, dict) else value
