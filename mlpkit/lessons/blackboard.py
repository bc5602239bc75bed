"""Equations as a lecturer writes them, with their numbers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlpkit.activations import Activation, Identity, Sigmoid, Softmax
from mlpkit.backends import Array, Backend
from mlpkit.layers import Dense
from mlpkit.lessons.record import Host, Part
from mlpkit.losses import Loss, get_loss

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
LETTERS = {"weight": "w", "bias": "b"}


@dataclass(frozen=True)
class Written:
    """How a loss is written for one output with score s and target t.

    Attributes
    ----------
    link : turns the scores into p
    term : what the output adds to E, and
    slope : its derivative with respect to s
    mean : whether E is the mean over the outputs, not their sum
    """

    link: Activation
    term: str
    slope: str
    mean: bool


WRITTEN = {
    "half_squared_error": Written(Identity(), "({p} - {t})² / 2", "({p} - {t})", False),
    "mean_squared_error": Written(Identity(), "({p} - {t})²", "2 · ({p} - {t})", True),
    "mean_absolute_error": Written(Identity(), "|{p} - {t}|", "sign({p} - {t})", True),
    "binary_cross_entropy": Written(
        Sigmoid(), "-{t} · log({p}) - (1 - {t}) · log(1 - {p})", "({p} - {t})", True
    ),
    "softmax_cross_entropy": Written(Softmax(), "-{t} · log({p})", "({p} - {t})", False),
}


class Blackboard:
    """Equations, one below the other.

    Units and samples count from 1; samples, where there are several, stand above in parentheses.
    """

    def __init__(self, samples: int, digits: int) -> None:
        self.samples = samples
        self.digits = digits
        self.lines: list[str] = []

    # ---- words

    def number(self, value: Any) -> str:
        """A number, which is never -0."""
        return f"{float(value) + 0.0:.{self.digits}g}"

    def factor(self, value: Any) -> str:
        """A number behind a sign: a negative one in parentheses."""
        text = self.number(value)
        return f"({text})" if text.startswith("-") else text

    def sum(self, values: Iterable[Any]) -> str:
        """u + v + ..."""
        return " + ".join(map(self.factor, values))

    def products(self, left: Iterable[Any], right: Iterable[Any]) -> str:
        """u · v + ..."""
        pairs = zip(left, right, strict=True)
        return " + ".join(f"{self.factor(u)} · {self.factor(v)}" for u, v in pairs)

    def of_unit(self, letter: str, n: int, *units: int) -> str:
        """The name of a quantity of sample n, of a unit or of none."""
        above = f"⁽{n + 1}⁾".translate(SUPERSCRIPTS) if self.samples > 1 else ""
        return letter + _below(*units) + above

    # ---- lines

    def title(self, text: str) -> None:
        self.lines += ["", text, "=" * len(text)]

    def write(self, text: str) -> None:
        self.lines += ["", text]

    def equations(self, rows: Iterable[tuple[str, ...]]) -> None:
        """What is equal, in columns."""
        rows = list(rows)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.lines.append("  " + " = ".join(cells).rstrip())

    def values(
        self, letter: str, array: Host, expression: Callable[[int, int], str] | None = None
    ) -> None:
        """The elements of (N, H), and how they come about."""
        self.equations(
            (
                self.of_unit(letter, n, j),
                *([expression(n, j)] if expression else []),
                self.number(value),
            )
            for (n, j), value in np.ndenumerate(array)
        )

    # ---- the four steps

    def forward(self, part: Part) -> None:
        """What comes out of each unit, from what goes in."""
        a, z, x, layer = part.input, part.output, part.x, part.layer
        if isinstance(layer, Dense):
            self.write(f"Layer {part.name}: {z}ⱼ = Σᵢ {a}ᵢ · wᵢⱼ{' + bⱼ' * layer.bias}")
            W, b = part.params["weight"], part.params.get("bias")
            added = [""] * W.shape[1] if b is None else [f" + {self.factor(value)}" for value in b]
            self.values(z, part.y, lambda n, j: self.products(x[n], W[:, j]) + added[j])
        elif isinstance(layer, Activation):
            self.write(f"{type(layer).__name__}: {_first_line(layer)}")
            if part.elementwise:
                self.values(z, part.y, lambda n, j: f"g({self.number(x[n, j])})")
            else:
                rows = [f"g({', '.join(map(self.number, row))})" for row in x]
                self.values(z, part.y, lambda n, j: rows[n] + _below(j))
        else:
            self.write(f"{layer}: {z} from {a}")
            self.values(a, x)
            self.values(z, part.y)

    def error(self, loss: Loss, backend: Backend, scores: Array, targets: Any, s: str) -> None:
        """E with its terms, and its derivative with respect to each score, called s."""
        N, C = scores.shape
        targets = loss.fit_targets(backend, targets, (N, C), scores.dtype)
        each = [loss(backend, scores[n : n + 1, ...], targets[n : n + 1, ...])[0] for n in range(N)]
        total, dscores = loss(backend, scores, targets)
        slopes = backend.to_numpy(dscores)
        self.write(f"E of {loss.name}: {_first_line(loss)}")
        if loss.name not in WRITTEN or loss != get_loss(loss.name):
            self.equations((self.of_unit("E", n), self.number(E)) for n, E in enumerate(each))
            if N > 1:
                self.equations([("E", self.number(total))])
            self.values(f"dE/d{s}", slopes)
            return

        how = WRITTEN[loss.name]
        p, t = backend.to_numpy(how.link.value(backend.xp, scores)), backend.to_numpy(targets)
        if t.ndim == 1:
            t = np.eye(C)[t]
        if how.link != Identity():
            self.write(f"p = {how.link.name}({s})")
            self.values("p", p)

        def written(text: str, n: int, j: int) -> str:
            return text.format(p=self.number(p[n, j]), t=self.factor(t[n, j]))

        if C > 1:
            terms = np.empty((N, C))
            for n, j in np.ndindex(N, C):
                terms[n, j] = float(_term(loss, backend, scores, t, n, j))
            self.write("of each output")
            self.values("E", terms, lambda n, j: written(how.term, n, j))
            self.write("of all outputs")
            expressions = [_over(self.sum(row), C * how.mean) for row in terms]
        else:
            expressions = [written(how.term, n, 0) for n in range(N)]
        self.equations(
            (self.of_unit("E", n), expressions[n], self.number(E)) for n, E in enumerate(each)
        )
        if N > 1:
            self.write("of all samples")
            self.equations([("E", _over(self.sum(each), N), self.number(total))])
        self.write("and its derivative")
        share = N * C if how.mean else N
        over = f" / {share}" * (share > 1)
        self.values(f"dE/d{s}", slopes, lambda n, j: written(how.slope, n, j) + over)

    def backward(self, part: Part, need_dx: bool) -> None:
        """The derivatives of E with respect to the parameters and to what goes in."""
        a, z, dy, layer = part.input, part.output, part.dy, part.layer
        before, behind = _slope(a), _slope(z)
        if isinstance(layer, Dense):
            W, dW, db = part.params["weight"], part.grads["weight"], part.grads.get("bias")
            laws = [f"dE/dwᵢⱼ = {a}ᵢ · {behind}ⱼ"] + [f"dE/dbⱼ = {behind}ⱼ"] * layer.bias
            laws += [f"{before}ᵢ = Σⱼ wᵢⱼ · {behind}ⱼ"] * need_dx
            self.write(f"Layer {part.name}: {', '.join(laws)}")
            self.equations(
                (
                    f"dE/dw{_below(i, j)}",
                    self.products(part.x[:, i], dy[:, j]),
                    self.number(dW[i, j]),
                )
                for j, i in np.ndindex(dW.T.shape)
            )
            if db is not None:
                sums = [[self.sum(column)] * (self.samples > 1) for column in dy.T]
                self.equations(
                    (f"dE/db{_below(j)}", *sums[j], self.number(value))
                    for j, value in enumerate(db)
                )
            if need_dx:
                self.values(before, part.dx, lambda n, i: self.products(W[i], dy[n]))
        elif isinstance(layer, Activation) and part.elementwise:
            self.write(f"{type(layer).__name__}: {before}ⱼ = {behind}ⱼ · g'({a}ⱼ)")
            slopes = np.diagonal(part.jacobian, axis1=-2, axis2=-1)
            self.values(before, part.dx, lambda n, j: self.products([dy[n, j]], [slopes[n, j]]))
        elif isinstance(layer, Activation):
            self.write(f"{type(layer).__name__}: {before}ⱼ = Σₖ {behind}ₖ · d{z}ₖ/d{a}ⱼ")
            slopes = part.jacobian
            self.values(before, part.dx, lambda n, j: self.products(dy[n], slopes[n, :, j]))
        else:
            self.write(f"{layer}: {before} from {behind}")
            self.values(behind, dy)
            self.values(before, part.dx)

    def update(self, name: str, old: Host, lr: float, slope: Host, new: Host) -> None:
        """w - lr dE/dw for each element of a parameter."""
        key, rate = name.rpartition(".")[2], self.number(lr)
        letter = LETTERS.get(key, key)
        self.write(f"{name}: {letter} - {rate} · dE/d{letter}")
        self.equations(
            (
                letter + _below(*index),
                f"{self.number(old[index])} - {rate} · {self.factor(slope[index])}",
                self.number(value),
            )
            for index, value in np.ndenumerate(new)
        )


def _term(loss: Loss, backend: Backend, scores: Array, t: Host, n: int, j: int) -> Array:
    """What output j of sample n adds: E without the other outputs, or their targets."""
    row, column = slice(n, n + 1), slice(j, j + 1)
    if isinstance(WRITTEN[loss.name].link, Softmax):
        scores, t = scores[row, :], np.where(np.arange(t.shape[1]) == j, t[row], 0)
    else:
        scores, t = scores[row, column], t[row, column]
    return loss(backend, scores, backend.asarray(t, scores.dtype))[0]


def _below(*units: int) -> str:
    """Subscripts, apart where one has two digits."""
    separator = "," if max(units, default=0) > 8 else ""
    return separator.join(str(unit + 1) for unit in units).translate(SUBSCRIPTS)


def _over(total: str, count: int) -> str:
    return f"({total}) / {count}" if count > 1 else total


def _slope(letter: str) -> str:
    """The name of dE/dz, which is called δ, or of another derivative."""
    return letter.replace("z", "δ") if letter.startswith("z") else f"dE/d{letter}"


def _first_line(thing: Any) -> str:
    return (type(thing).__doc__ or "").partition("\n")[0]
