"""PyTorch, eager and compiled."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import grad_and_value
from torch.nn.functional import cross_entropy, linear, relu

from benchmarks.contestants.base import Contestant, NotOfferedError, Training
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

    def __init__(self, device: str, precision: str) -> None:
        super().__init__(device, precision)
        torch.zeros(1, device=device)  # fails here where there is no such device
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        self.rounded = partial(torch.autocast, device, torch.bfloat16, precision == "bfloat16")

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

    def __init__(self, device: str, precision: str) -> None:
        super().__init__(device, precision)
        torch._dynamo.config.recompile_limit = 64  # a graph for each batch size
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # not eager, unnoticed


class Captured(Eager):
    """The step of eager, captured by hand."""

    how = "torch.cuda.graph of the whole step; capturable=True, fused=True optimizer"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def network(self, params: Floats, optimizer: str, seed: int = 0) -> "_Training":
        return _Captured(self, own(params), optimizer, seed)

    def networks(self, params: Floats, optimizer: str) -> Training:
        raise NotOfferedError("one network: members are those of eager")


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
        with self.contestant.rounded():
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
        with torch.no_grad(), self.contestant.rounded():
            grads, losses = self.contestant.of_members(self.params, x, y)
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = grad
        self.optimizer.step()
        return losses


class _Captured(_Training):
    def __init__(
        self, contestant: Eager, params: Sequence[Floats], optimizer: str, seed: int
    ) -> None:
        super().__init__(contestant, params, optimizer, seed)
        if optimizer == "Adam":
            self.optimizer = torch.optim.Adam(
                self.params, LR[optimizer], BETAS, EPS, fused=True, capturable=True
            )
        self.graphs: dict[int, tuple[Any, ...]] = {}  # by batch size, with input and output

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if len(x) not in self.graphs:
            self.graphs[len(x)] = self.capture(x, y)
        graph, own_x, own_y, loss = self.graphs[len(x)]
        own_x.copy_(x)
        own_y.copy_(y)
        graph.replay()
        return loss.clone()

    def capture(self, x: torch.Tensor, y: torch.Tensor) -> tuple[Any, ...]:
        """After a few steps on a stream aside, as torch.cuda.graph wants; they are undone."""
        x, y, before = x.clone(), y.clone(), [param.detach().clone() for param in self.params]
        memory = [value.clone() for value in self.remembered()]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                super().step(x, y)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad()
        with torch.cuda.graph(graph):
            loss = super().step(x, y)
        memory = memory or [torch.zeros_like(value) for value in self.remembered()]
        with torch.no_grad():
            for changed, value in zip(
                (*self.params, *self.remembered()), (*before, *memory), strict=True
            ):
                changed.copy_(value)
        return graph, x, y, loss

    def remembered(self) -> list[torch.Tensor]:
        """What the optimizer keeps of earlier steps."""
        states = self.optimizer.state.values()
        return [value for state in states for value in state.values() if torch.is_tensor(value)]
