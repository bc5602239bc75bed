"""Where MNIST is looked for, what is refused, and the download, all without a network."""

import gzip
import hashlib
import importlib
import struct
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest

from mlpkit.data import DatasetUnavailableError, mnist

module = importlib.import_module("mlpkit.data.mnist")  # the name stands for the function elsewhere

NAMES = tuple(module.CHECKSUMS)
FIRST, SECOND = module.MIRRORS


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_set():
    """Six training and four test images, as the content of the four files."""
    files = {}
    for n, (images, labels) in zip((6, 4), (NAMES[:2], NAMES[2:]), strict=True):
        files[images] = idx(np.arange(784 * n).reshape(n, 28, 28).astype(np.uint8))
        files[labels] = idx(np.arange(n, dtype=np.uint8))
    return files


@pytest.fixture(autouse=True)
def no_folder_named(monkeypatch, request):
    if "mnist" not in request.keywords:
        monkeypatch.delenv("MLPKIT_DATA", raising=False)


@pytest.fixture
def folder(tmp_path):
    """A folder with the small set, plain files and .gz mixed."""
    path = tmp_path / "data"
    path.mkdir()
    for i, (name, content) in enumerate(small_set().items()):
        if i % 2:
            (path / name).write_bytes(content)
        else:
            (path / f"{name}.gz").write_bytes(gzip.compress(content))
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache that takes the small set for MNIST."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in small_set().items()}
    monkeypatch.setattr(module, "CHECKSUMS", sums)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    return tmp_path / "mlpkit" / "mnist"


@pytest.fixture
def mirrors(monkeypatch, cache):
    """Both mirrors serve the small set; `answers[url]` replaces one answer or raises."""
    answers, asked = {}, []

    def download(url, output_file, _):
        asked.append(url)
        answer = answers.get(url)
        if answer is None:
            answer = gzip.compress(small_set()[url.rsplit("/")[-1].removesuffix(".gz")])
        if isinstance(answer, Exception):
            Path(output_file).write_bytes(b"\x1f\x8bhalf a file")
            raise answer
        Path(output_file).write_bytes(answer)

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: download)
    return answers, asked


def check_small_set(data):
    (x_train, y_train), (x_test, y_test) = data
    assert x_train.shape == (6, 784)
    assert x_test.shape == (4, 784)
    assert x_train.dtype == y_train.dtype == np.uint8
    np.testing.assert_array_equal(x_train[1, :4], [16, 17, 18, 19])
    np.testing.assert_array_equal(y_train, range(6))
    np.testing.assert_array_equal(y_test, range(4))


def test_reads_the_folder_given(folder, mirrors, monkeypatch):
    monkeypatch.setenv("MLPKIT_DATA", "/nowhere")
    check_small_set(mnist(folder))
    check_small_set(mnist(str(folder)))
    monkeypatch.setenv("MLPKIT_DATA", str(folder))
    check_small_set(mnist())
    assert mirrors[1] == []


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_folder_without_files_is_an_error_and_nothing_else_is_tried(
    folder, mirrors, monkeypatch, by
):
    (folder / f"{NAMES[0]}.gz").unlink()
    (folder / NAMES[3]).unlink()
    for path, words in [
        (folder, f"lacks {NAMES[0]}, {NAMES[3]}"),
        (folder / "no", "is not a folder"),
    ]:
        if by == "environment":
            monkeypatch.setenv("MLPKIT_DATA", str(path))
        with pytest.raises(FileNotFoundError, match=words) as caught:
            mnist(path if by == "argument" else None)
        assert not isinstance(caught.value, DatasetUnavailableError)
        for way in ("--data", "MLPKIT_DATA", "network"):
            assert way in str(caught.value)
    assert mirrors[1] == []


WRONG = {
    "flat images": (0, np.zeros((6, 784), np.uint8), r"expected uint8 images \(n, 28, 28\)"),
    "no images": (0, np.zeros((0, 28, 28), np.uint8), r"got uint8 \(0, 28, 28\)"),
    "label axes": (1, np.zeros((6, 1), np.uint8), r"expected uint8 labels \(6,\)"),
    "too few labels": (1, np.zeros(5, np.uint8), r"one per image, got uint8 \(5,\)"),
    "label ten": (3, np.full(4, 10, np.uint8), "expected labels 0 to 9, got 10"),
}


@pytest.mark.parametrize(("which", "array", "message"), WRONG.values(), ids=WRONG)
def test_file_of_the_wrong_kind_is_refused(folder, which, array, message):
    (folder / NAMES[which]).write_bytes(idx(array))
    with pytest.raises(ValueError, match=f"{NAMES[which]}.*{message}"):
        mnist(folder)


def test_second_mirror_helps_and_the_cache_serves_the_next_call(cache, mirrors):
    answers, asked = mirrors
    for name in NAMES:
        answers[f"{FIRST}{name}.gz"] = OSError("404 Client Error")
    check_small_set(mnist())
    assert asked == [f"{mirror}{name}.gz" for name in NAMES for mirror in (FIRST, SECOND)]
    assert {file.name for file in cache.iterdir()} == {f"{name}.gz" for name in NAMES}
    check_small_set(mnist())
    assert len(asked) == 8


def test_all_mirrors_failing_says_why_and_leaves_the_cache_clean(cache, mirrors):
    answers, _ = mirrors
    answers[f"{FIRST}{NAMES[0]}.gz"] = ConnectionError("no\nroute")
    answers[f"{SECOND}{NAMES[0]}.gz"] = gzip.compress(b"<html>captive portal</html>")
    with pytest.raises(DatasetUnavailableError) as caught:
        mnist()
    lines = str(caught.value).splitlines()
    assert lines[1] == f"  {FIRST}{NAMES[0]}.gz: no route"
    assert lines[2] == f"  {SECOND}{NAMES[0]}.gz: the content has the wrong SHA-256"
    assert lines[3] == module.THREE_WAYS
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("damage", [b"", b"\x1f\x8bhalf", gzip.compress(b"other")])
def test_damaged_file_in_the_cache_is_fetched_again(cache, mirrors, suffix, damage):
    mnist()
    mirrors[1].clear()
    (cache / f"{NAMES[2]}{suffix}").write_bytes(damage)
    check_small_set(mnist())
    assert mirrors[1] == [f"{FIRST}{NAMES[2]}.gz"]
    check_small_set(mnist())
    assert len(mirrors[1]) == 1


def test_cache_that_cannot_be_written(cache, mirrors):
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(DatasetUnavailableError, match="mlpkit"):
        mnist()


def test_real_downloader_against_a_local_server(cache, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("NO_PROXY", "*")
    served = tmp_path / "served"
    served.mkdir()
    for name, content in small_set().items():
        (served / f"{name}.gz").write_bytes(gzip.compress(content))

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        try:
            monkeypatch.setattr(module, "MIRRORS", ("http://127.0.0.1:1/", f"{url}gone/"))
            with pytest.raises(DatasetUnavailableError, match=r"(?s)refused.*\n.*404"):
                mnist()
            assert list(cache.iterdir()) == []
            monkeypatch.setattr(module, "MIRRORS", (f"{url}gone/", url))
            check_small_set(mnist())
        finally:
            server.shutdown()
    assert capfd.readouterr() == ("", "")


def test_only_a_download_imports_pooch(folder):
    code = "import sys, mlpkit.data as d; d.mnist(sys.argv[1]); assert 'pooch' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code, folder], check=True)


@pytest.mark.mnist
def test_the_real_files():
    folder = module.os.environ.get("MLPKIT_DATA")
    if not folder:
        pytest.skip("MLPKIT_DATA does not name a folder with the MNIST files")
    (x_train, y_train), (x_test, y_test) = mnist()
    assert x_train.shape == (60000, 784)
    assert x_test.shape == (10000, 784)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_array_equal(np.bincount(y_train), counts)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(y_test), counts)
    assert round(x_train.mean() / 255, 4) == 0.1307
    files = [module._find(Path(folder), name) for name in NAMES]
    assert all(map(module._intact, files, NAMES))
