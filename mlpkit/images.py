"""Pictures of digits, from files to what a network takes."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlpkit.data import read_idx

if TYPE_CHECKING:
    from PIL import Image

SIDE = 28  # pixels of an image
BOX = 20  # pixels of the digit in it


def read_images(path: str | Path) -> NDArray[np.uint8]:
    """The images in a file as (N, 784) uint8, white on black.

    An IDX file holds N images of 28 x 28 bytes.  Any other file is one picture of a digit, dark on
    light or light on dark.  If it has 28 x 28 pixels it is taken as it is; else it is prepared as
    MNIST was: what is brighter than the background is brought into a square of 20 x 20 pixels, and
    its centre of mass into the middle of 28 x 28.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is neither an IDX file of such images nor a picture, or the picture is blank.
    """
    with Path(path).open("rb") as file:
        magic = file.read(2)
    if magic not in (b"\x1f\x8b", b"\x00\x00"):  # gzip, or the first half of an IDX magic number
        return _read_picture(path).reshape(1, SIDE * SIDE)
    images = read_idx(path)
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise ValueError(
            f"{path} holds {images.dtype} {images.shape}, expected uint8 (N, {SIDE}, {SIDE})"
        )
    return images.reshape(-1, SIDE * SIDE)


def _read_picture(path: str | Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            colours = _eight_bits(picture).convert("RGBA")
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{path} is no picture that can be read: {error}") from error
    # What is transparent is white paper, unless the ink is white too.
    for paper in ("white", "black"):
        sheet = Image.new("RGBA", colours.size, paper)
        pixels = np.asarray(Image.alpha_composite(sheet, colours).convert("L"))
        if np.ptp(pixels) > 0:
            break
    else:
        raise ValueError(f"{path} is blank: all its pixels have one colour")
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if edge.mean() > 127:
        pixels = 255 - pixels
    return pixels if pixels.shape == (SIDE, SIDE) else _prepared(pixels)


def _eight_bits(picture: "Image.Image") -> "Image.Image":
    """The picture itself, or one of 16 bits or of floats with its range brought to 0..255."""
    from PIL import Image

    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture, np.float64)
    span = np.ptp(values) or 1.0
    return Image.fromarray(((values - values.min()) * (255 / span)).astype(np.uint8))


def _prepared(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A light digit on a dark ground, of any size, as MNIST would have it (28, 28)."""
    from PIL import Image

    low, high = int(pixels.min()), int(pixels.max())
    ink = ((pixels - low) * (255.0 / (high - low))).astype(np.uint8)
    rows, columns = (np.flatnonzero((ink > 64).any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(BOX * side / max(ink.shape))) for side in ink.shape)
    small = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BOX))
    weights = small / small.sum()
    top = round((SIDE - 1) / 2 - float(weights.sum(axis=1) @ np.arange(height)))
    left = round((SIDE - 1) / 2 - float(weights.sum(axis=0) @ np.arange(width)))
    top, left = np.clip(top, 0, SIDE - height), np.clip(left, 0, SIDE - width)
    sheet = np.zeros((SIDE, SIDE), np.uint8)
    sheet[top : top + height, left : left + width] = small
    return sheet
