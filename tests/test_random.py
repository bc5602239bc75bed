"""The generator: published vectors, equal bits everywhere, and no pattern that shows."""

import numpy as np
import pytest

from mlpkit.backends.threefry import threefry2x32
from mlpkit.random import Purpose, check_seed, make_key, normal, shuffled, uniform

# Known-answer vectors of Random123 (tests/kat_vectors, threefry2x32 with 20 rounds):
# counter, key, result.
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_the_published_vectors(counter, key, result):
    assert threefry2x32(key, counter) == result


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_the_published_vectors_on_every_array_library(backend, counter, key, result):
    xp = backend.xp
    words = [xp.asarray([word], dtype=xp.int64) for word in (*key, *counter)]
    found = threefry2x32(tuple(words[:2]), tuple(words[2:]))
    assert tuple(int(word[0]) for word in found) == result


def bits(backend, key, step, size):
    step = backend.xp.asarray(step, dtype=backend.xp.int64)
    return backend.to_numpy(backend.random_bits(backend.asarray(np.array(key)), step, size))


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN[:1])
def test_a_backend_begins_with_block_zero(backend, counter, key, result):
    assert tuple(bits(backend, key, 0, 2)) == result


def test_the_same_bits_on_every_backend(backend):
    expected = [
        word
        for block in range(25)
        for word in threefry2x32((0xDEADBEEF, 0xFFFFFFFF), (block, 2**32 - 1))
    ]
    found = bits(backend, (0xDEADBEEF, 0xFFFFFFFF), 2**32 - 1, 49)
    assert found.tolist() == expected[:49]


def test_members_draw_what_they_would_draw_alone(backend):
    keys = [make_key(seed, Purpose.DROPOUT, 2) for seed in (3, 4, 5)]
    together = bits(backend, keys, 7, 11)
    np.testing.assert_array_equal(together, [bits(backend, key, 7, 11) for key in keys])


def test_an_element_does_not_depend_on_how_many_are_drawn(backend):
    key = make_key(1, Purpose.ORDER)
    np.testing.assert_array_equal(bits(backend, key, 5, 7), bits(backend, key, 5, 100)[:7])


def test_a_key_stands_for_seed_purpose_and_index():
    keys = {
        make_key(seed, purpose, index)
        for seed in (0, 1, 2**32, 2**64 - 1)
        for purpose in Purpose
        for index in range(3)
    }
    assert len(keys) == 4 * len(Purpose) * 3


STREAMS = {
    "elements": [(make_key(0, Purpose.DROPOUT), 0)],
    "steps": [(make_key(0, Purpose.DROPOUT), step) for step in range(64)],
    "seeds": [(make_key(seed, Purpose.DROPOUT), 0) for seed in range(64)],
    "layers": [(make_key(0, Purpose.DROPOUT, index), 0) for index in range(64)],
}


@pytest.mark.parametrize("streams", STREAMS.values(), ids=STREAMS.keys())
def test_no_pattern_along_elements_steps_seeds_or_layers(streams):
    n = 2**16 // len(streams)
    drawn = np.stack([uniform(key, n, step) for key, step in streams])
    u = drawn.T.ravel()  # neighbours differ in the stream
    # Bounds of 4.5 standard errors; the numbers are fixed, so these pass for ever or never.
    assert abs(u.mean() - 0.5) < 4.5 * np.sqrt(1 / 12 / u.size)
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4.5 / np.sqrt(u.size)
    for shift in (0, 8, 16, 24):
        counts = np.bincount((u * 2**32).astype(np.int64) >> shift & 255)
        chi2 = ((counts - u.size / 256) ** 2).sum() / (u.size / 256)
        assert abs(chi2 - 255) < 4.5 * np.sqrt(2 * 255)


def test_uniform_numbers_stay_inside_the_open_interval():
    u = uniform(make_key(9, Purpose.WEIGHTS), 100_001)
    assert u.shape == (100_001,)
    assert u.min() > 0
    assert u.max() < 1


def test_normal_numbers_have_the_moments_of_a_normal():
    z = normal(make_key(3, Purpose.WEIGHTS), 200_001)
    assert z.shape == (200_001,)
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        error = np.sqrt([0, 1, 2, 15, 96][power] / z.size)
        assert abs((z**power).mean() - moment) < 4.5 * error


def test_a_shuffle_is_a_permutation_that_changes_with_the_epoch(backend):
    key = backend.asarray(np.array(make_key(0, Purpose.ORDER)))
    steps = [backend.xp.asarray(epoch, dtype=backend.xp.int64) for epoch in range(2)]
    first, second = (backend.to_numpy(shuffled(backend, key, step, 1000)) for step in steps)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert (first == second).sum() < 10
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.1


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "0", None, True])
def test_what_is_no_seed(seed):
    with pytest.raises(ValueError, match="a seed is an integer in"):
        check_seed(seed)
