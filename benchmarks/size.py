"""What a library brings along: megabytes on disk, and milliseconds to import."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def megabytes(requirement: str) -> float:
    """Of a distribution and all that it needs, without byte code, which not every installer writes.

    PackageNotFoundError where one of them is missing, ValueError for an extra that is not there.
    """
    seen: set[tuple[str, str]] = set()
    collect(Requirement(requirement), seen)
    paths = (path for name in {name for name, _ in seen} for path in files(distribution(name)))
    return sum(path.stat().st_size for path in paths) / 1e6


def collect(requirement: Requirement, seen: set[tuple[str, str]]) -> None:
    """Add what a requirement needs, as pairs of a name and an extra or ""."""
    name = canonicalize_name(requirement.name)
    for extra in {"", *requirement.extras}:
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        if extra and extra not in (distribution(name).metadata.get_all("Provides-Extra") or ()):
            raise ValueError(f"{name} has no extra {extra!r}")
        for line in distribution(name).requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                collect(needed, seen)


def files(dist: Distribution) -> Iterator[Path]:
    """Of an installed distribution; of one installed with pip -e, the packages in its folder."""
    origin = json.loads(dist.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        folder = Path(unquote(urlsplit(origin["url"]).path))
        packages = (dist.read_text("top_level.txt") or "").split()
        # A package may be a link, which rglob does not follow.
        roots = [
            path.resolve() for name in packages for path in (folder / name, *links(folder / name))
        ]
        found = (path for root in roots for path in root.rglob("*") if path.is_file())
    else:
        found = (Path(str(file.locate())) for file in dist.files or ())
    return (path for path in found if path.suffix != ".pyc" and path.is_file())


def links(package: Path) -> Iterator[Path]:
    return (path for path in package.iterdir() if path.is_symlink() and path.is_dir())


def milliseconds(statement: str) -> float:
    """What a fresh interpreter takes for a statement, beyond what a bare one takes."""
    return (seconds(statement) - seconds("pass")) * 1000


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", statement], check=True)
    return time.perf_counter() - start
