"""A moving average of the weights, often a better network than the last one."""

import copy

from mlpkit.backends import Array
from mlpkit.network import Network
from mlpkit.settings import PerMember, check_members, number


class MovingAverage:
    """a = a + (1 - decay) (w - a) after every update; the average is a / (1 - decay^t).

    The correction makes it the mean of the weights seen, from the first update on (Kingma and Ba
    2015, section 3).  What layers such as `BatchNorm` remember is averaged likewise.

    Parameters
    ----------
    network : whose weights are averaged
    decay : in [0, 1), or one per member

    Attributes
    ----------
    memory : "params" and "buffers", the sums a before the correction, and "count", () int64

    >>> from mlpkit import MLP, Trainer
    >>> trainer = Trainer(MLP([2, 2]), average=0.99)
    >>> history = trainer.fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], epochs=2)
    >>> sorted(trainer.evaluate([[0.0, 1.0]], [0]))
    ['average_loss', 'loss']
    >>> averaged = trainer.average.network()
    """

    def __init__(self, network: Network, decay: PerMember) -> None:
        xp = network.backend.xp
        self.decay = number("average", decay, below=1.0)
        check_members("MovingAverage", {"decay": self.decay}, network.members)
        self.memory: dict[str, Array] = {
            "params": xp.zeros_like(network.params),
            "buffers": xp.zeros_like(network.buffers),
            "count": xp.zeros((), dtype=xp.int64),
        }
        self._of = network
        self._network: Network | None = None

    def update(self) -> None:
        """Take in the weights as they are."""
        share = self._share()
        for name in ("params", "buffers"):
            a, w = self.memory[name], getattr(self._of, name)
            a[...] = (1 - share) * a + share * w  # exactly w for a share of 1
        self.memory["count"] += 1

    def network(self) -> Network:
        """A network with the averaged weights: one and the same, written anew at each call.

        Before the first update those are the weights of the network itself.
        """
        if self._network is None:
            self._network = copy.deepcopy(self._of)
        xp = self._of.backend.xp
        left = 1 - xp.astype(self._share(), xp.float64)
        mass = xp.astype(1 - left ** xp.astype(self.memory["count"], xp.float64), self._of.dtype)
        for name in ("params", "buffers"):
            mean = self.memory[name] / xp.where(mass > 0, mass, xp.ones_like(mass))
            getattr(self._network, name)[...] = xp.where(mass > 0, mean, getattr(self._of, name))
        return self._network

    def _share(self) -> Array:
        """1 - decay, rounded to the network's dtype once, so that the correction fits the sum."""
        backend = self._of.backend
        decay = backend.constant(self.decay, backend.xp.float64, ndim=2)
        return backend.xp.astype(1 - decay, self._of.dtype)
