"""Several steps in one graph: the epoch is the same, and callbacks are told."""

import numpy as np
import pytest
from emulated import needs_compiler
from recorded_training import assert_equal, graphs, small, state

import mlpkit

pytestmark = needs_compiler


class Counting(mlpkit.Callback):
    """Notes the steps that it is told of."""

    def __init__(self, every_step=True):
        self.every_step, self.steps = every_step, []

    def on_step_end(self, trainer):
        self.steps.append(trainer.steps)


FITS = {
    "": {},
    "weights": {"weights": np.arange(37) % 3},
    "balanced": {"sampling": "balanced"},
    "max_steps": {"max_steps": 50},
}


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("how", FITS)
def test_an_epoch_in_groups_of_steps_is_the_epoch(cuda, members, how):
    """37 batches an epoch: two groups of 16, and five by themselves, the last of them smaller."""
    found, rng = [], np.random.default_rng(0)
    x, y = cuda.asarray(rng.random((73, 9)), np.float32), cuda.asarray(rng.integers(0, 3, 73))
    for compile in (True, False):
        net = mlpkit.MLP([9, 6, 3], dropout=0.2, backend=cuda, members=members)
        trainer = mlpkit.Trainer(net, compile=compile, average=0.9)
        counting = Counting(every_step=False)
        how_here = dict(FITS[how])
        if "weights" in how_here:
            how_here["weights"] = np.resize(how_here["weights"], 73)
        trainer.fit(x, y, epochs=2, batch_size=2, callbacks=[counting], **how_here)
        found.append((trainer, counting.steps))
    (grouped, in_groups), (alone, one_by_one) = found
    assert_equal(state(grouped), state(alone))
    assert one_by_one == list(range(1, alone.steps + 1))
    assert in_groups[:6] == [16, 32, 33, 34, 35, 36]
    assert in_groups[-1] == alone.steps == grouped.steps
    losses = [trainer.history.rows[-1]["loss"] for trainer in (grouped, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_a_callback_that_looks_at_every_step_is_told_of_every_step(cuda):
    trainer, data = small(cuda)
    counting = Counting()
    trainer.fit(*data, epochs=1, batch_size=2, callbacks=[counting])
    assert counting.steps == list(range(1, 21))


def test_the_group_is_recorded_once_for_the_same_arrays(cuda):
    trainer, (x, labels) = small(cuda)
    data = x, cuda.xp.astype(labels, np.int64)  # as the loss takes them: others are cast anew
    for epochs in (2, 3, 4):
        trainer.fit(*data, epochs=epochs, batch_size=2)
        assert len(graphs(trainer._groups._steps)) == (epochs > 1)
    trainer.fit(*(array.copy() for array in data), epochs=5, batch_size=2)
    assert not graphs(trainer._groups._steps)


def test_groups_of_another_size_count_as_much(cuda):
    rng, losses = np.random.default_rng(0), []
    x, y = cuda.asarray(rng.random((143, 9)), np.float32), cuda.asarray(rng.integers(0, 3, 143))
    for compile in (True, False):
        trainer = mlpkit.Trainer(mlpkit.MLP([9, 3], backend=cuda), compile=compile)
        for epochs, size in ((1, 2), (2, 4), (3, 2)):
            trainer.fit(x, y, epochs=epochs, batch_size=size)
        losses.append([row["loss"] for row in trainer.history.rows])
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_an_epoch_that_was_broken_off_goes_on_in_groups(cuda, tmp_path):
    whole, data = small(cuda)
    whole.fit(*data, epochs=2, batch_size=2)
    broken, _ = small(cuda)
    broken.fit(*data, epochs=2, batch_size=2, max_steps=3)
    mlpkit.save_state(broken, tmp_path / "state.safetensors")
    resumed, _ = small(cuda)
    mlpkit.restore_state(resumed, tmp_path / "state.safetensors")
    resumed.fit(*data, epochs=2, batch_size=2)
    assert_equal(state(whole), state(resumed))
