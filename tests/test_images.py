"""Pictures of digits of any size and polarity, prepared as MNIST was."""

import numpy as np
import pytest
from PIL import Image

import mlpkit
from mlpkit.images import read_images

DIGIT = mlpkit.data.digits(1, seed=5)[0].reshape(28, 28)


def picture(scale=4, size=(200, 300), at=(20, 130), ground=0, ink=255):
    """The digit, enlarged, somewhere on a larger sheet."""
    large = Image.fromarray(DIGIT).resize((28 * scale, 28 * scale), Image.Resampling.BILINEAR)
    sheet = np.zeros(size)
    sheet[at[0] : at[0] + 28 * scale, at[1] : at[1] + 28 * scale] = np.asarray(large)
    return np.rint(ground + (ink - ground) * (sheet / 255)).astype(np.uint8)


def read(path, pixels, mode=None):
    Image.fromarray(pixels, mode).save(path)
    (image,) = read_images(path)
    return image.reshape(28, 28).astype(float)


def test_28_by_28_is_taken_as_it_is_in_either_polarity(tmp_path):
    np.testing.assert_array_equal(read(tmp_path / "a.png", DIGIT), DIGIT)
    np.testing.assert_array_equal(read(tmp_path / "b.png", 255 - DIGIT), DIGIT)


def test_a_larger_picture_is_cropped_scaled_and_centred(tmp_path):
    image = read(tmp_path / "a.png", picture())
    rows, columns = np.nonzero(image)
    assert max(np.ptp(rows), np.ptp(columns)) == 19  # a box of 20 pixels
    centre = [image.sum(axis=axis) @ np.arange(28) / image.sum() for axis in (1, 0)]
    np.testing.assert_allclose(centre, 13.5, atol=0.51)
    assert image.max() > 200


@pytest.mark.parametrize(
    "other",
    [
        picture(at=(80, 10)),
        picture(size=(400, 150), at=(200, 20)),
        picture(ground=255, ink=0),
        picture(ground=100, ink=160),
    ],
    ids=["moved", "another sheet", "dark on light", "grey on grey"],
)
def test_place_sheet_polarity_and_contrast_do_not_matter(tmp_path, other):
    first, second = read(tmp_path / "a.png", picture()), read(tmp_path / "b.png", other)
    assert np.abs(first - second).mean() < 4  # of 255; the contrast costs a few grey levels


def test_transparent_paper(tmp_path):
    pixels = picture()
    for ink in (0, 255):
        drawn = np.stack([np.full_like(pixels, ink)] * 3 + [pixels], axis=-1)
        np.testing.assert_allclose(
            read(tmp_path / "a.png", drawn), read(tmp_path / "b.png", pixels), atol=2
        )


@pytest.mark.parametrize("grey", [0, 90, 255])
def test_a_blank_picture_is_refused(tmp_path, grey):
    Image.new("L", (50, 40), grey).save(tmp_path / "blank.png")
    with pytest.raises(ValueError, match=r"blank.png is blank"):
        read_images(tmp_path / "blank.png")


def test_a_stroke_one_pixel_wide(tmp_path):
    pixels = np.zeros((200, 50), np.uint8)
    pixels[10:190, 25] = 255
    image = read(tmp_path / "one.png", pixels)
    assert np.count_nonzero(image.any(axis=1)) == 20
    assert image.max() == 255


def test_pictures_of_sixteen_bits_keep_their_greys(tmp_path):
    pixels = picture(ground=40, ink=230)
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "a.png")
    (image,) = read_images(tmp_path / "a.png")
    expected = read(tmp_path / "b.png", pixels)
    np.testing.assert_allclose(image.reshape(28, 28), expected, atol=3)
