import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from edgekit.processing.raster import (
    Image,
    composite_on_white,
    crop,
    resize,
    to_gray,
    to_rgb,
)


def random_image(width: int, height: int, channels: int) -> Image:
    source = np.random.default_rng(width * height * channels)
    shape = (height, width, channels)
    return Image(width, height, channels, source.integers(0, 256, shape, dtype=np.uint8).tobytes())


def as_array(image: Image) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.frombuffer(image.pixels, np.uint8).reshape(image.height, image.width, image.channels)


def area_matrix(source: int, target: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Row i holds how much of each source pixel lies in target pixel i."""
    edges = np.arange(target + 1) * source / target
    cells = np.arange(source)
    low = np.maximum(edges[:-1, None], cells)
    high = np.minimum(edges[1:, None], cells + 1)
    return np.asarray(np.maximum(high - low, 0) * target / source, np.float64)


def test_image_with_missing_pixels_raises() -> None:
    with pytest.raises(ValueError, match="3 bytes for 2 × 2 × 1"):
        Image(2, 2, 1, b"abc")


def test_image_rows_are_the_pixels_in_order() -> None:
    assert Image(1, 2, 3, b"abcdef").rows() == [b"abc", b"def"]


@settings(max_examples=60)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from([1, 3]),
)  # fmt: skip
def test_resize_shrinking_axes_average_the_area(
    width: int, height: int, new_width: int, new_height: int, channels: int
) -> None:
    new_width, new_height = min(width, new_width), min(height, new_height)
    image = random_image(width, height, channels)
    pixels = as_array(image).astype(float)
    reference = np.einsum(
        "yh,xw,hwc->yxc", area_matrix(height, new_height), area_matrix(width, new_width), pixels
    )
    result = resize(image, new_width, new_height)
    assert (result.width, result.height, result.channels) == (new_width, new_height, channels)
    # Each of the two passes rounds once.
    assert np.abs(as_array(result) - reference).max() <= 1.01


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (8, 8), (30, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_growing_axes_interpolate_like_pillow(
    width: int, height: int, channels: int
) -> None:
    image = random_image(width, height, channels)
    pixels = as_array(image)
    source = Pillow.fromarray(pixels[..., 0] if channels == 1 else pixels)
    reference = np.asarray(source.resize((60, 50), Pillow.Resampling.BILINEAR)).astype(int)
    result = as_array(resize(image, 60, 50)).astype(int)
    assert np.abs(result - reference.reshape(result.shape)).max() <= 2


@pytest.mark.parametrize("level", [0, 1, 127, 255])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 64), (100, 3)])
def test_resize_constant_image_stays_constant(level: int, size: tuple[int, int]) -> None:
    image = Image(31, 17, 1, bytes([level]) * (31 * 17))
    assert set(resize(image, *size).pixels) == {level}


def test_resize_to_the_same_size_changes_nothing() -> None:
    image = random_image(9, 7, 3)
    assert resize(image, 9, 7) == image


def test_crop_takes_the_rectangle() -> None:
    image = random_image(9, 7, 3)
    assert np.array_equal(as_array(crop(image, 2, 3, 4, 2)), as_array(image)[3:5, 2:6])


def test_to_gray_colors_equal_pillow() -> None:
    image = random_image(64, 64, 3)
    reference = Pillow.fromarray(as_array(image)).convert("L").tobytes()
    assert to_gray(image).pixels == reference


def test_to_gray_of_equal_channels_keeps_the_levels() -> None:
    image = random_image(16, 16, 1)
    assert to_gray(to_rgb(image)) == image


def test_to_gray_and_to_rgb_leave_what_is_so_already() -> None:
    gray, rgb = random_image(3, 3, 1), random_image(3, 3, 3)
    assert to_gray(gray) is gray
    assert to_rgb(rgb) is rgb


def test_composite_on_white_all_pairs_round_to_the_nearest() -> None:
    samples = bytes(range(256)) * 256
    alpha = bytes(value for value in range(256) for _ in range(256))
    exact = (
        255
        + (np.frombuffer(samples, "u1").astype(float) - 255) * np.repeat(np.arange(256), 256) / 255
    )
    assert composite_on_white(samples, alpha) == np.round(exact).astype("u1").tobytes()
    assert composite_on_white(b"abc", b"\xff" * 3) == b"abc"
