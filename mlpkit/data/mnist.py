"""MNIST: 60,000 and 10,000 handwritten digits, from a folder, the cache or a mirror.

Y. LeCun, C. Cortes, C. Burges, licence CC BY-SA 3.0. The files are not part of this package.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlpkit.data.idx import read_idx, unpacked

Split = tuple[NDArray[np.uint8], NDArray[np.uint8]]

# SHA-256 of the unpacked files: copies that were packed again differ in their compression only.
CHECKSUMS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT = 10.0  # seconds without an answer
THREE_WAYS = (
    "There are three ways to provide the four files, plain or as .gz: a folder given as --data, "
    "or in Python as mnist(path); the environment variable MLPKIT_DATA, naming such a folder; "
    "or a network connection, with neither of the two given."
)


class DatasetUnavailableError(OSError):
    """No data were given, none are in the cache, and no mirror delivered them."""


def mnist(path: str | Path | None = None) -> tuple[Split, Split]:
    """MNIST as ((x_train, y_train), (x_test, y_test)).

    Parameters
    ----------
    path : folder that holds the four files under their usual names, each plain or with .gz. Without
        it $MLPKIT_DATA names the folder; without that too, they come from the cache, into which
        they are downloaded once. A folder that was named is the only one searched.

    Returns
    -------
    x : uint8 (N, 784), 0 background to 255 ink, rows of 28 pixels from the top.
    y : uint8 (N,), 0 to 9.

    Raises
    ------
    FileNotFoundError
        The folder that was named lacks files.
    ValueError
        One of its files is not what it should be.
    DatasetUnavailableError
        No folder was named and the download failed.
    """
    named = path if path is not None else os.environ.get("MLPKIT_DATA") or None
    files = _cached() if named is None else _given(Path(named).expanduser())
    train_images, train_labels, test_images, test_labels = files
    return _split(train_images, train_labels), _split(test_images, test_labels)


def _split(images: Path, labels: Path) -> Split:
    x, y = read_idx(images), read_idx(labels)
    if x.dtype != np.uint8 or x.shape[1:] != (28, 28) or len(x) == 0:
        raise ValueError(f"{images}: expected uint8 images (n, 28, 28), got {x.dtype} {x.shape}")
    if y.dtype != np.uint8 or y.shape != x.shape[:1]:
        expected = f"uint8 labels {x.shape[:1]}, one per image"
        raise ValueError(f"{labels}: expected {expected}, got {y.dtype} {y.shape}")
    if y.max() > 9:
        raise ValueError(f"{labels}: expected labels 0 to 9, got {y.max()}")
    return x.reshape(len(x), 784), y


def _find(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((file for file in candidates if file.is_file()), None)


def _given(folder: Path) -> list[Path]:
    found = {name: _find(folder, name) for name in CHECKSUMS}
    missing = [name for name, file in found.items() if file is None]
    if missing:
        state = "lacks " + ", ".join(missing) if folder.is_dir() else "is not a folder"
        raise FileNotFoundError(f"the MNIST folder {folder} {state}. {THREE_WAYS}")
    return [file for file in found.values() if file is not None]


def _cached() -> list[Path]:
    from pooch import os_cache

    folder = Path(os_cache("mlpkit")) / "mnist"
    files = []
    for name in CHECKSUMS:
        file = _find(folder, name)
        files.append(file if file is not None and _intact(file, name) else _download(name, folder))
    return files


def _download(name: str, folder: Path) -> Path:
    """Fetch one file into the cache; it appears there whole and checked, or not at all."""
    import tempfile

    from pooch import HTTPDownloader

    fetch = HTTPDownloader(timeout=TIMEOUT)
    target = folder / f"{name}.gz"
    reasons = []
    for mirror in MIRRORS:
        url = f"{mirror}{target.name}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                partial = Path(scratch) / target.name
                fetch(url, str(partial), None)
                if not _intact(partial, name):
                    raise ValueError("the content has the wrong SHA-256")
                (folder / name).unlink(missing_ok=True)  # a damaged plain copy would be found first
                return partial.replace(target)
        except (OSError, ValueError) as error:  # what requests raises is an OSError
            reasons.append(f"  {url}: {_cause(error)}")
    raise DatasetUnavailableError("\n".join(["MNIST cannot be downloaded:", *reasons, THREE_WAYS]))


def _cause(error: BaseException) -> str:
    """What happened first: requests wraps it several times over."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split()) or type(error).__name__


def _intact(file: Path, name: str) -> bool:
    import hashlib

    try:
        with unpacked(file) as (stream, _):
            return hashlib.file_digest(stream, "sha256").hexdigest() == CHECKSUMS[name]
    except ValueError:  # damaged gzip
        return False
