import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from edgekit.errors import InvalidInputError
from edgekit.processing.ink import fit_ink
from edgekit.processing.raster import Image, to_rgb

Grid = NDArray[np.int64]


def seven(width: int = 40, height: int = 40, *, left: int = 8, top: int = 6) -> Grid:
    """A seven of 28 × 31 pixels: 255 on 0."""
    canvas = Pillow.new("L", (28, 31))
    ImageDraw.Draw(canvas).line([(2, 2), (25, 2), (8, 28)], fill=255, width=4)
    levels = np.zeros((height, width), np.int64)
    levels[top : top + 31, left : left + 28] = np.asarray(canvas)
    return levels


def fit(levels: Grid, width: int = 8, height: int = 8) -> Grid:
    rows, columns = levels.shape
    pixels = np.clip(levels, 0, 255).astype(np.uint8).tobytes()
    result = fit_ink(Image(columns, rows, 1, pixels), width, height)
    assert (result.width, result.height, result.channels) == (width, height, 1)
    return np.frombuffer(result.pixels, np.uint8).reshape(height, width).astype(np.int64)


def test_fit_ink_sign_fills_the_height_and_sits_in_the_middle() -> None:
    found = fit(seven())
    assert found[0].max() > 100
    assert found[-1].max() > 60
    ink_columns = np.flatnonzero(found.max(axis=0) > 20)
    assert abs((ink_columns[0] + ink_columns[-1]) / 2 - 3.5) <= 0.5
    assert found.max() == 255
    assert found[4, 0] == 0


def test_fit_ink_both_polarities_give_the_same() -> None:
    assert np.array_equal(fit(seven()), fit(255 - seven()))


@pytest.mark.parametrize(
    ("paper", "ink"), [(200, 30), (90, 250), (128, 60), (128, 200), (255, 225)]
)
def test_fit_ink_gray_paper_and_faint_ink_give_the_same(paper: int, ink: int) -> None:
    levels = paper + (ink - paper) * seven() // 255
    assert np.abs(fit(levels) - fit(seven())).max() <= 4


@pytest.mark.parametrize(("left", "top"), [(0, 0), (12, 9), (2, 9)])
def test_fit_ink_place_on_the_paper_does_not_matter(left: int, top: int) -> None:
    assert np.array_equal(fit(seven(left=left, top=top)), fit(seven()))


@pytest.mark.parametrize("size", [(36, 64), (64, 37), (80, 90)])
def test_fit_ink_size_of_the_paper_does_not_matter(size: tuple[int, int]) -> None:
    assert np.array_equal(fit(seven(*size)), fit(seven()))


def test_fit_ink_noise_changes_little() -> None:
    noise = np.random.default_rng(0).normal(0, 10, (40, 40)).round().astype(np.int64)
    assert np.abs(fit(230 - seven() * 200 // 255 + noise) - fit(seven())).max() <= 40


def test_fit_ink_specks_are_dropped() -> None:
    levels = seven()
    levels[38, 2] = levels[3, 38] = levels[30, 35] = 255
    assert np.array_equal(fit(levels), fit(seven()))


def test_fit_ink_second_stroke_apart_from_the_first_is_kept() -> None:
    levels = np.zeros((40, 40), np.int64)
    levels[5:35, 10:13] = levels[5:35, 25:28] = 255
    found = fit(levels)
    assert found[4, :4].max() == found[4, 4:].max() == 255


def test_fit_ink_strokes_that_join_below_are_one_piece() -> None:
    # A thin U: its short left arm alone would be a speck.
    levels = np.zeros((40, 40), np.int64)
    levels[30:35, 10] = 255
    levels[5:35, 30] = 255
    levels[35, 10:31] = 255
    assert fit(levels)[6, 1] > 0


def test_fit_ink_proportions_are_kept() -> None:
    levels = np.zeros((64, 64), np.int64)
    levels[10:50, 30:34] = 255
    found = fit(levels)
    assert (found[:, 3:5] > 0).all()
    assert (found[:, [0, 1, 6, 7]] == 0).all()


def test_fit_ink_wide_sign_is_centred_vertically() -> None:
    levels = np.zeros((64, 64), np.int64)
    levels[30:34, 10:50] = 255
    found = fit(levels)
    assert (found[3:5] > 0).all()
    assert (found[[0, 1, 6, 7]] == 0).all()


def test_fit_ink_target_that_is_no_square_keeps_proportions() -> None:
    levels = np.zeros((64, 64), np.int64)
    levels[10:50, 12:52] = 255
    found = fit(levels, 16, 8)
    assert (found[:, 4:12] == 255).all()
    assert (found[:, :4] == 0).all()
    assert (found[:, 12:] == 0).all()


def test_fit_ink_large_image_equals_its_small_version() -> None:
    large = np.kron(seven(), np.ones((12, 12), np.int64))
    assert np.abs(fit(large) - fit(seven())).max() <= 60


def test_fit_ink_sign_smaller_than_the_target_is_enlarged() -> None:
    levels = np.zeros((20, 20), np.int64)
    levels[8:11, 9] = 255
    found = fit(levels)
    assert found[:, 3:5].min() > 0


def test_fit_ink_colors_are_taken_as_gray() -> None:
    gray = Image(40, 40, 1, seven().astype(np.uint8).tobytes())
    assert fit_ink(to_rgb(gray), 8, 8) == fit_ink(gray, 8, 8)


def exact() -> Grid:
    """An 8 × 8 image like those of the data set, off centre: 0 to 16."""
    levels = np.zeros((8, 8), np.int64)
    levels[1:7, 2] = [4, 16, 15, 16, 12, 3]
    return levels


@pytest.mark.parametrize("factor", [1, 15])
def test_fit_ink_image_of_the_targets_size_stays_where_it_is(factor: int) -> None:
    expected = (exact() * 255 + 8) // 16
    assert np.array_equal(fit(exact() * factor), expected)
    assert np.array_equal(fit(255 - exact() * factor), expected)


@pytest.mark.parametrize("level", [0, 90, 255])
@pytest.mark.parametrize("size", [8, 28])
def test_fit_ink_blank_image_says_so(level: int, size: int) -> None:
    with pytest.raises(InvalidInputError, match="the image is blank"):
        fit(np.full((size, size), level))


def test_fit_ink_faint_noise_alone_is_blank() -> None:
    noise = np.random.default_rng(0).integers(0, 6, (28, 28))
    with pytest.raises(InvalidInputError, match="the image is blank"):
        fit(200 + noise)


@pytest.mark.parametrize("size", [(1, 30), (30, 1), (2, 2), (1, 1000)])
def test_fit_ink_degenerate_proportions_work(size: tuple[int, int]) -> None:
    levels = np.zeros(size, np.int64)
    levels[size[0] // 2, size[1] // 2] = 255
    assert fit(levels).max() == 255
