"""A moving average of the weights, often a better network than the last one."""

import copy

from mlpkit.backends import Array
from mlpkit.network import Network
from mlpkit.settings import PerMember, check_members, number


class MovingAverage:
    """a = decay a + (1 - decay) w after every update; the average is a / (1 - decay^t).

    The correction makes it the mean of the weights seen, from the first update on (Kingma and Ba
    2015, section 3).  What layers such as `BatchNorm` remember is averaged likewise.

    Parameters
    ----------
    network : whose weights are averaged
    decay : in [0, 1), or one per member

    Attributes
    ----------
    memory : "params" and "buffers", the sums a before the correction, and "count", () int64
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
        decay = self._of.backend.constant(self.decay, self._of.dtype, ndim=2)
        for name in ("params", "buffers"):
            a, w = self.memory[name], getattr(self._of, name)
            a[...] = decay * a + (1 - decay) * w
        self.memory["count"][...] = self.memory["count"] + 1

    def network(self) -> Network:
        """A network with the averaged weights: one and the same, written anew at each call.

        Before the first update those are the weights of the network itself.
        """
        if self._network is None:
            self._network = copy.deepcopy(self._of)
        xp, backend = self._of.backend.xp, self._of.backend
        decay = backend.constant(self.decay, xp.float64, ndim=2)
        t = xp.astype(self.memory["count"], xp.float64)
        mass = xp.astype(1 - decay**t, self._of.dtype)
        for name in ("params", "buffers"):
            mean = self.memory[name] / xp.where(mass > 0, mass, xp.ones_like(mass))
            getattr(self._network, name)[...] = xp.where(mass > 0, mean, getattr(self._of, name))
        return self._network
