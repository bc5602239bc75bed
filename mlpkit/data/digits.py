"""Drawn digits: images like handwriting, made by arithmetic, for where there is no MNIST.

A digit is drawn in three steps.

1. It has a skeleton, one of a few ways to write it: strokes, each a smooth curve through a handful
   of points in the square from -1 to 1, cut into short segments.
2. The ends of the segments are moved. A random mix of waves bends the strokes; since the move
   depends on the place alone, strokes that meet stay together. Then a random scale, slant, turn
   and shift set the pose.
3. A pixel has ink where a segment is nearer than the radius of the pen, which is random too. The
   edge is a ramp, the ink is uneven, and the paper is clean.

Image i is a function of (seed, i) alone, so a longer set begins with the shorter one.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from mlpkit.random import Purpose, check_seed, make_key, uniform

Floats = NDArray[np.float32]

# (digit, strokes): points "x,y" in tenths, x to the right and y down; a stroke ends at a corner.
SKELETONS = (
    (0, "1,-10 -4,-7 -6,0 -4,7.5 0,10 4.5,7 6,0 4.5,-7 1,-10"),
    (1, "0,-10 0,10"),
    (1, "-3.5,-6 .5,-10 / .5,-10 .5,10"),
    (2, "-5.5,-6 -2,-9.5 3,-9 5,-5 2,1 -6,9.5 / -6,9.5 6,9.5"),
    (2, "-5,-6.5 -1,-10 4,-7.5 3.5,-2 -1,5 -5,9 -6,6 -3,5 1,8.5 6.5,9"),
    (3, "-5,-7.5 -1,-10 4,-7.5 3,-2.5 -1,-.5 / -1,-.5 4.5,1.5 5,6.5 .5,10 -5.5,7.5"),
    (3, "-5,-10 5,-10 / 5,-10 -.5,-2 / -.5,-2 4.5,1 5,6.5 0,10 -5.5,7.5"),
    (4, "-4.5,-10 -5.5,1 / -5.5,1 6,1 / 3.5,-9 2.5,10"),
    (4, "2.5,-10 -6.5,3 / -6.5,3 6.5,3 / 2.5,-10 2.5,10"),
    (5, "5,-10 -4,-10 / -4,-10 -5,-1.5 / -5,-1.5 0,-3.5 5,.5 5,6 0,10 -5.5,8"),
    (5, "5,-9 0,-10 -4,-7 -3,-2.5 2,-1 5,3.5 2,9 -5,8.5"),
    (6, "3.5,-10 -2,-6 -5,1 -4,7.5 .5,10 5,6.5 4,1.5 0,0 -4.5,3.5"),
    (7, "-5.5,-9 5.5,-9.5 / 5.5,-9.5 1,0 -1.5,10"),
    (7, "-5.5,-9 5.5,-9.5 / 5.5,-9.5 1,0 -1.5,10 / -3,.5 5,0"),
    (8, "4,-7 0,-10 -4.5,-6.5 -2,-2 2.5,1 5,6 0,10 -5,6 -2.5,1 2.5,-2.5 4,-7"),
    (9, "4.5,-6 .5,-10 -4.5,-7 -4,-2 0,0 4,-3 4.5,-6 / 4.5,-6 4,2 2.5,10"),
    (9, "4.5,-7 0,-10 -4.5,-6.5 -3,-1 2,-1 4.5,-7 / 4.5,-7 4.5,2 2,9 -4,9"),
)
SEGMENTS = 24  # per skeleton
CHUNK = 64  # images at a time: the arrays of the renderer stay in the processor's cache

SIZE = 8.7  # pixels from the centre to the top
PEN = (0.7, 1.6)  # radius in pixels, from and to
# Half the widths of the random ranges.
BEND = 0.085  # per wave
TURN = 0.3  # radians
SLANT = 0.35
STRETCH = 0.22
SHIFT = 2.2  # pixels
UNEVEN = 0.25  # share of the ink


def digits(n: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """`n` drawn digits, white on black, shaped like MNIST.

    Returns
    -------
    x : uint8 (n, 784), 0 background to 255 ink, rows of 28 pixels from the top.
    y : uint8 (n,), 0 to 9, each with probability 1/10.

    Raises
    ------
    ValueError
        `n` is not a positive integer, or `seed` not an integer in [0, 2**64).
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"the number of digits is a positive integer, got {n!r}")
    seed = check_seed(seed)
    pose, grain = (make_key(seed, Purpose.DIGITS, index) for index in range(2))
    x, y = np.empty((n, 784), np.uint8), np.empty(n, np.uint8)
    for chunk, start in enumerate(range(0, n, CHUNK)):
        rows = slice(start, min(start + CHUNK, n))
        size = rows.stop - start
        u = uniform(pose, 24 * size, chunk).reshape(size, 24)
        y[rows] = labels = (10 * u[:, 0]).astype(np.intp)
        radius = PEN[0] + (PEN[1] - PEN[0]) * u[:, 1]
        ink = _render(_segments(labels, u[:, 2:]), radius.astype(np.float32))
        ink *= 1 - UNEVEN * uniform(grain, 784 * size, chunk).reshape(size, 784)
        x[rows] = np.rint(255 * ink)
    return x, y


def _segments(labels: NDArray[np.intp], u: NDArray[np.float64]) -> Floats:
    """The posed segments (N, SEGMENTS, 2 ends, 2) in pixels, from `u` (N, 22 or more) in (0, 1)."""
    ends, ways, first = _skeletons()
    p = ends[first[labels] + (ways[labels] * u[:, 0]).astype(np.intp)]  # (N, 2 SEGMENTS, 2)
    v = 2 * u[:, 1:] - 1
    waves = np.concatenate([np.sin(2 * p), np.cos(2 * p), np.sin(3 * p), np.cos(3 * p)], axis=-1)
    p = p + BEND * waves @ v[:, :16].reshape(-1, 8, 2)
    x = p[..., 0] * SIZE * (1 + STRETCH * v[:, 16:17])
    y = p[..., 1] * SIZE * (1 + STRETCH * v[:, 17:18])
    x -= SLANT * v[:, 18:19] * y
    cos, sin = np.cos(TURN * v[:, 19:20]), np.sin(TURN * v[:, 19:20])
    p = np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)
    p += 13.5 + SHIFT * v[:, None, 20:22]
    return p.reshape(-1, SEGMENTS, 2, 2).astype(np.float32)


def _render(segments: Floats, radius: Floats) -> Floats:
    """Ink (N, 784) in [0, 1]: 1 within the pen's radius (N,) of a segment, 0 beyond the ramp."""
    middle = segments.mean(axis=2)
    half = (segments[:, :, 1] - segments[:, :, 0]) / 2
    length = np.hypot(half[..., 0], half[..., 1])
    along = half / length[..., None]
    pixel = np.arange(28, dtype=np.float32)
    nearest = np.full((len(segments), 28, 28), np.inf, np.float32)
    for s in range(SEGMENTS):
        dx = pixel - middle[:, s, 0, None]  # (N, 28)
        dy = pixel - middle[:, s, 1, None]
        ux, uy = along[:, s, 0, None], along[:, s, 1, None]
        ahead = np.abs((dy * uy)[:, :, None] + (dx * ux)[:, None, :])
        beyond = np.maximum(ahead - length[:, s, None, None], 0)  # the end of the segment
        across = (dy * ux)[:, :, None] - (dx * uy)[:, None, :]
        np.minimum(nearest, beyond**2 + across**2, out=nearest)
    ink = radius[:, None, None] + np.float32(0.5) - np.sqrt(nearest, out=nearest)
    return np.clip(ink, 0, 1, out=ink).reshape(-1, 784)


@cache
def _skeletons() -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """The cut skeletons (ways, 2 SEGMENTS, 2); of each digit, its number of ways and the first."""
    ways = np.bincount([digit for digit, _ in SKELETONS])
    return np.stack([_cut(strokes) for _, strokes in SKELETONS]), ways, np.cumsum(ways) - ways


def _cut(strokes: str) -> NDArray[np.float64]:
    """The ends (2 SEGMENTS, 2) of the segments of a skeleton, all of about one length."""
    curves = [_curve(stroke) for stroke in strokes.split("/")]
    paths = [np.cumsum(np.hypot(*np.diff(c, axis=0, prepend=c[:1]).T)) for c in curves]
    lengths = np.cumsum([path[-1] for path in paths])
    shares = np.diff(np.rint(SEGMENTS * lengths / lengths[-1]).astype(int), prepend=0)
    segments = []
    for curve, path, share in zip(curves, paths, shares, strict=True):
        at = np.linspace(0, path[-1], share + 1)
        ends = np.stack([np.interp(at, path, curve[:, axis]) for axis in range(2)], axis=-1)
        segments.append(np.stack([ends[:-1], ends[1:]], axis=1))
    return np.concatenate(segments).reshape(-1, 2)


def _curve(stroke: str) -> NDArray[np.float64]:
    """A Catmull-Rom spline through the points of a stroke, 16 steps from one to the next."""
    points = np.array([point.split(",") for point in stroke.split()], np.float64) / 10
    padded = np.pad(points, ((1, 1), (0, 0)), "edge")[:, None]
    a, b, c, d = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = np.linspace(0, 1, 17)[:, None]
    curve = b + t * ((c - a) + t * ((2 * a - 5 * b + 4 * c - d) + t * (3 * (b - c) + d - a))) / 2
    return curve.reshape(-1, 2)
