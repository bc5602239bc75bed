"""Pictures of digits, from files to what a network takes."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlpkit.data import read_idx

SIDE = 28


def read_images(path: str | Path) -> NDArray[np.uint8]:
    """The images in a file as (N, 784) uint8, white on black.

    An IDX file holds N images of 28 x 28 bytes.  Any other file is one picture: what is transparent
    counts as white paper, a bright border as paper to be made black, and the whole is brought to
    28 x 28 pixels.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is neither an IDX file of such images nor a picture.
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
            colours = picture.convert("RGBA")
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{path} is no picture that can be read: {error}") from error
    paper = Image.new("RGBA", colours.size, "white")
    grey = Image.alpha_composite(paper, colours).convert("L")
    pixels = np.asarray(grey)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if edge.mean() > 127:
        pixels = 255 - pixels
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX), np.uint8)
