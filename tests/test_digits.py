"""Drawn digits: reproducible, balanced, and recognisable but not trivially so."""

import numpy as np
import pytest

from mlpkit.data import digits
from mlpkit.data.digits import CHUNK


@pytest.fixture(scope="module")
def drawn():
    return digits(4000, seed=7)


def test_shape_and_dtype(drawn):
    x, y = drawn
    assert x.shape == (4000, 784)
    assert y.shape == (4000,)
    assert x.dtype == y.dtype == np.uint8


@pytest.mark.parametrize("m", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 1000])
def test_shorter_set_is_the_beginning_of_the_longer(drawn, m):
    x, y = digits(np.int64(m), seed=7)
    np.testing.assert_array_equal(x, drawn[0][:m])
    np.testing.assert_array_equal(y, drawn[1][:m])


def test_seeds_differ():
    x, y = digits(200, seed=0)
    for seed in (1, 2**32, 2**64 - 1):
        other_x, other_y = digits(200, seed)
        assert (y == other_y).mean() < 0.3
        assert not (x == other_x).all(axis=1).any()


def test_images_within_a_set_differ(drawn):
    assert len(np.unique(drawn[0], axis=0)) == 4000


def test_labels_are_balanced_and_in_no_order(drawn):
    y = drawn[1]
    assert np.bincount(y, minlength=10).min() > 320  # 400 expected, standard deviation 19
    assert abs((y[1:] == y[:-1]).mean() - 0.1) < 0.03


def test_every_image_is_ink_on_clean_paper(drawn):
    ink = drawn[0] / 255.0
    assert ((ink > 0.5).sum(axis=1) >= 10).all()
    assert (ink.mean(axis=1) < 0.5).all()
    assert (drawn[0] == 0).mean() > 0.6
    frame = np.ones((28, 28), bool)
    frame[1:-1, 1:-1] = False
    assert ink.reshape(-1, 28, 28)[:, frame].mean() < 0.02  # digits seldom leave the image


def test_nearest_mean_tells_the_classes_apart(drawn):
    x, y = drawn[0].astype(np.float64), drawn[1]
    means = np.stack([x[:3000][y[:3000] == c].mean(axis=0) for c in range(10)])
    scores = x[3000:] @ means.T - (means**2).sum(axis=1) / 2
    assert 0.55 < (scores.argmax(axis=1) == y[3000:]).mean() < 0.9


@pytest.mark.parametrize("n", [0, -1, 1.0, True, "5", None])
def test_wrong_number(n):
    with pytest.raises(ValueError, match="positive integer, got"):
        digits(n)


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5])
def test_wrong_seed(seed):
    with pytest.raises(ValueError, match="seed"):
        digits(1, seed)
