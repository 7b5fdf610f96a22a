import math
from typing import Any

import numpy as np
import pytest

from edgekit.errors import UpstreamUnavailableError
from edgekit.processing.image import Image
from edgekit.processing.preparation import IMAGE_DATATYPES, ImageSpec, prepare

DIGITS = {
    "input": "image", "layout": "NCHW", "width": 8, "height": 8, "color": "gray",
    "range": [0, 255], "mean": None, "std": None, "fit": "ink",
}  # fmt: skip
MINIMAL = {"input": "x", "width": 4, "height": 2}


def spec(**changes: Any) -> ImageSpec:
    return ImageSpec.from_parameters({**MINIMAL, **changes})


def test_from_parameters_reads_what_the_backend_describes() -> None:
    assert ImageSpec.from_parameters(DIGITS) == ImageSpec(
        "image", 8, 8, layout="NCHW", color="gray", range=(0.0, 255.0), fit="ink"
    )


def test_from_parameters_unknown_keys_are_left_alone() -> None:
    assert spec(of_the_future=1) == spec()


def test_from_parameters_one_mean_counts_for_all_channels() -> None:
    assert spec(mean=[0.5], std=[2]).mean == (0.5, 0.5, 0.5)
    assert spec(mean=[0.5], std=[2], color="gray").std == (2.0,)


@pytest.mark.parametrize(
    "changes",
    [
        {"input": ""}, {"input": 3}, {"input": None},
        {"width": 0}, {"width": -1}, {"width": 2.0}, {"width": True}, {"width": 10**6},
        {"height": "8"}, {"height": None},
        {"layout": "CNHW"}, {"color": "cmyk"}, {"color": []}, {"fit": "crop"}, {"fit": {}},
        {"range": [0]}, {"range": [0, math.inf]}, {"range": [0, "1"]}, {"range": 5},
        {"mean": [1, 2]}, {"mean": [1, 2, 3, 4]}, {"std": [1, 0, 1]}, {"std": [math.nan]},
        {"std": [0]}, {"mean": []},
    ],
)  # fmt: skip
def test_from_parameters_nonsense_is_the_backends_fault(changes: dict[str, object]) -> None:
    key = next(iter(changes))
    with pytest.raises(UpstreamUnavailableError, match=rf"metadata has image\.{key} = "):
        spec(**changes)


@pytest.mark.parametrize("key", ["input", "width", "height"])
def test_from_parameters_missing_key_is_the_backends_fault(key: str) -> None:
    parameters = {name: value for name, value in MINIMAL.items() if name != key}
    with pytest.raises(UpstreamUnavailableError, match=f"image.{key} = None"):
        ImageSpec.from_parameters(parameters)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("NCHW", [1, 3, 2, 4]), ("NHWC", [1, 2, 4, 3]), ("CHW", [3, 2, 4]), ("HWC", [2, 4, 3])],
)
def test_shape_follows_the_layout(layout: str, shape: list[int]) -> None:
    assert spec(layout=layout).shape == shape


RGB = Image(4, 2, 3, bytes(range(0, 240, 10)))
TYPES = {"UINT8": "<u1", "INT8": "<i1", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "CHW", "HWC"])
@pytest.mark.parametrize("datatype", sorted(IMAGE_DATATYPES))
def test_prepare_normalises_each_channel_in_the_layout(datatype: str, layout: str) -> None:
    wanted = spec(layout=layout, range=[0, 100], mean=[10, 20, 30], std=[1, 2, 4])
    pixels = np.frombuffer(RGB.pixels, np.uint8).reshape(2, 4, 3).astype(float)
    values = (pixels * 100 / 255 - [10, 20, 30]) / [1, 2, 4]
    if datatype in ("UINT8", "INT8"):
        limits = np.iinfo(TYPES[datatype])
        values = np.clip(np.round(values), limits.min, limits.max)
    expected = values.transpose(2, 0, 1) if layout.endswith("CHW") else values
    result = np.frombuffer(prepare(RGB, wanted, datatype), TYPES[datatype])
    assert np.allclose(result, expected.astype(TYPES[datatype]).ravel(), rtol=1e-6)
    assert result.size == math.prod(wanted.shape)


def test_prepare_default_range_keeps_the_pixels() -> None:
    assert prepare(RGB, spec(layout="NHWC")) == RGB.pixels


def test_prepare_reversed_range_inverts() -> None:
    image = Image(2, 1, 1, b"\x00\xff")
    wanted = spec(width=2, height=1, color="gray", range=[255, 0])
    assert prepare(image, wanted) == b"\xff\x00"


def test_prepare_gray_image_for_rgb_model_repeats_the_channel() -> None:
    image = Image(4, 2, 1, bytes(range(8)))
    assert prepare(image, spec()) == image.pixels * 3


def test_prepare_rgb_image_for_gray_model_takes_the_luma() -> None:
    image = Image(1, 1, 3, b"\x00\xff\x00")
    assert prepare(image, spec(width=1, height=1, color="gray")) == bytes([150])


def test_prepare_stretch_uses_the_whole_image() -> None:
    image = Image(4, 4, 1, bytes([0, 0, 9, 9] * 4))
    wanted = spec(width=2, height=1, color="gray", fit="stretch")
    assert prepare(image, wanted) == bytes([0, 9])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image(6, 2, 1, bytes([1, 1, 5, 7, 9, 9] * 2)), bytes([5, 7] * 2)),
        (Image(2, 6, 1, bytes([1, 1, 1, 1, 5, 5, 7, 7, 9, 9, 9, 9])), bytes([5, 5, 7, 7])),
    ],
)
def test_prepare_cover_cuts_the_edges(image: Image, expected: bytes) -> None:
    assert prepare(image, spec(width=2, height=2, color="gray", fit="cover")) == expected


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image(4, 2, 1, b"\x09" * 8), b"\0" * 4 + b"\x09" * 8 + b"\0" * 4),
        (Image(2, 4, 1, b"\x09" * 8), b"\0\x09\x09\0" * 4),
    ],
)
def test_prepare_contain_adds_black_bars(image: Image, expected: bytes) -> None:
    assert prepare(image, spec(width=4, height=4, color="gray", fit="contain")) == expected


def test_prepare_contain_of_rgb_keeps_the_channels_apart() -> None:
    image = Image(1, 2, 3, bytes([1, 2, 3] * 2))
    wanted = spec(width=2, height=2, layout="NHWC", fit="contain")
    assert prepare(image, wanted) == bytes([1, 2, 3, 0, 0, 0] * 2)


@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 500), (500, 1), (3, 499)])
def test_prepare_any_proportions_give_the_whole_tensor(fit: str, width: int, height: int) -> None:
    image = Image(width, height, 1, bytes(width * height))
    wanted = spec(width=7, height=5, color="gray", fit=fit)
    assert len(prepare(image, wanted)) == 35


def test_prepare_datatype_not_for_images_is_the_backends_fault() -> None:
    with pytest.raises(UpstreamUnavailableError, match="datatype INT64; FP16, FP32"):
        prepare(RGB, spec(), "INT64")


def test_prepare_range_beyond_the_datatype_is_the_backends_fault() -> None:
    with pytest.raises(UpstreamUnavailableError, match="does not fit its datatype FP16"):
        prepare(RGB, spec(range=[0, 1e6]), "FP16")
