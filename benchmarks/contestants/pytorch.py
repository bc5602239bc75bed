"""PyTorch, eager and compiled."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import grad_and_value
from torch.nn.functional import cross_entropy, linear, relu

from benchmarks.contestants.base import Contestant, Training
from benchmarks.workload import BATCH, BETAS, EPS, LR, MOMENTUM, Batch, Floats, unflatten

Params = list[torch.Tensor]  # W (H, D), b (H,), W, b, ...; (K, ...) of members


def scores(params: Params, x: torch.Tensor) -> torch.Tensor:
    *hidden, W, b = params
    for V, c in zip(hidden[::2], hidden[1::2], strict=True):
        x = relu(linear(x, V, c))
    return linear(x, W, b)


def loss(params: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return cross_entropy(scores(params, x), y)


# The gradients and losses (K,) of members on a shared batch.
of_members = torch.vmap(grad_and_value(loss), in_dims=(0, None, None))


class Eager(Contestant):
    """Operation by operation."""

    requirement = "torch"
    imports = "import torch"
    how = "torch.nn.functional, fused=True optimizer; members by vmap(grad_and_value)"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    scores: Callable[..., torch.Tensor] = staticmethod(scores)
    loss: Callable[..., torch.Tensor] = staticmethod(loss)
    of_members: Callable[..., Any] = staticmethod(of_members)

    def __init__(self, device: str) -> None:
        super().__init__(device)
        torch.zeros(1, device=device)  # fails here where there is no such device

    def put(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def place(self, batches: Sequence[Batch]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(self.put(x), self.put(y)) for x, y in batches]

    def network(self, params: Floats, optimizer: str, seed: int = 0) -> "_Training":
        return _Training(self, own(params), optimizer, seed)

    def networks(self, params: Floats, optimizer: str) -> "_Training":
        stacked = [np.stack(arrays) for arrays in zip(*map(own, params), strict=True)]
        return _Members(self, stacked, optimizer, seed=0)

    def event(self) -> Any | None:
        if self.device == "cpu":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed(self, begin: Any, end: Any) -> float:
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000


class Compiled(Eager):
    """Forward pass, loss and their gradients by Inductor; eager fused optimizer.

    Of the ways to compile a step the fastest on a CPU at batch 8 and 128: with optimizer.step in
    the graph too, or with the update written out in it, a step took longer.
    """

    how = (
        "torch.compile(dynamic=False) of scores, loss and members' gradients; fused=True optimizer"
    )
    scores = staticmethod(torch.compile(scores, dynamic=False))
    loss = staticmethod(torch.compile(loss, dynamic=False))
    of_members = staticmethod(torch.compile(of_members, dynamic=False))

    def __init__(self, device: str) -> None:
        super().__init__(device)
        torch._dynamo.config.recompile_limit = 64  # a graph for each batch size
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # not eager, unnoticed


def own(params: Floats) -> list[Floats]:
    """Weights as PyTorch has them."""
    return [array for W, b in unflatten(params) for array in (W.T, b)]


class _Training(Training):
    def __init__(
        self, contestant: Eager, params: Sequence[Floats], optimizer: str, seed: int
    ) -> None:
        self.contestant, lr = contestant, LR[optimizer]
        self.params = [contestant.put(array).requires_grad_() for array in params]
        if optimizer == "SGD":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                self.params, lr, momentum=MOMENTUM, fused=True
            )
        else:
            self.optimizer = torch.optim.Adam(self.params, lr, BETAS, EPS, fused=True)
        self.generator = torch.Generator().manual_seed(seed)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self.contestant.loss(self.params, x, y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def run(self, placed: Any, rounds: int = 1) -> NDArray[Any]:
        for _ in range(rounds):
            losses = [self.step(x, y) for x, y in placed]
        return self.read(losses)

    def epoch(self, x: NDArray[np.uint8], y: NDArray[np.uint8]) -> float:
        images, labels = self.contestant.put(x), self.contestant.put(y).long()
        order = torch.randperm(len(x), generator=self.generator).to(images.device)
        losses = [
            self.step(images[rows].float().mul_(1 / 255), labels[rows])
            for rows in order.split(BATCH)
        ]
        return float(self.read(losses).mean())

    def classes(self, x: Floats) -> NDArray[Any]:
        with torch.inference_mode():
            found = self.contestant.scores(self.params, self.contestant.put(x)).argmax(1)
        return np.asarray(found.cpu())

    def read(self, losses: Sequence[torch.Tensor]) -> NDArray[Any]:
        """The losses on the host, once the last update has been made."""
        if self.contestant.device != "cpu":
            torch.cuda.synchronize()
        return np.asarray(torch.stack(list(losses)).cpu())


class _Members(_Training):
    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            grads, losses = self.contestant.of_members(self.params, x, y)
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = grad
        self.optimizer.step()
        return losses
