"""From an image to the input tensor of a model.

What a model wants is an `ImageSpec`, which the backend publishes with the model's metadata, so a
new model needs no new component.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgekit.errors import UpstreamUnavailableError
from edgekit.processing.ink import fit_ink
from edgekit.processing.raster import Image, crop, resize, to_gray, to_rgb

__all__ = ["IMAGE_DATATYPES", "ImageSpec", "prepare"]

_INTEGER_RANGES: Final = {"UINT8": (0, 255), "INT8": (-128, 127)}
_PACK_CODES: Final = {"UINT8": "<B", "INT8": "<b", "FP16": "<e", "FP32": "<f", "FP64": "<d"}
IMAGE_DATATYPES: Final = frozenset(_PACK_CODES)
"""Datatypes of the Open Inference Protocol that `prepare` makes."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How a model wants its image input.

    Attributes:
        input: Name of the input tensor.
        width: In pixels.
        height: In pixels.
        layout: "NCHW", "NHWC", "CHW" or "HWC".
        color: "gray" or "rgb".
        range: Values of black and white before `mean` and `std`.
        mean: Subtracted per channel; None for 0.
        std: Divided by per channel; None for 1.
        fit: "stretch" changes the aspect; "contain" adds black bars; "cover" cuts the edges;
            "ink" isolates a drawn sign (see `edgekit.processing.ink`).
    """

    input: str
    width: int
    height: int
    layout: str = "NCHW"
    color: str = "rgb"
    range: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fit: str = "stretch"

    @property
    def channels(self) -> int:
        """Channels of the tensor."""
        return 1 if self.color == "gray" else 3

    @property
    def shape(self) -> list[int]:
        """Shape of the tensor for one image."""
        sizes = {"N": 1, "C": self.channels, "H": self.height, "W": self.width}
        return [sizes[axis] for axis in self.layout]

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> ImageSpec:
        """Read the `image` object of a model's metadata; keys unknown here are left alone.

        Raises:
            UpstreamUnavailableError: The object makes no sense, which is the backend's fault.
        """
        color = _field(parameters, "color", ("gray", "rgb").__contains__, "rgb")
        channels = 1 if color == "gray" else 3
        low, high = _numbers(parameters, "range", 2) or (0.0, 255.0)
        std = _per_channel(parameters, "std", channels)
        if std and not all(std):
            raise _bad_spec("std", list(std))
        return cls(
            input=_field(parameters, "input", lambda value: isinstance(value, str) and value),
            width=_field(parameters, "width", _is_size),
            height=_field(parameters, "height", _is_size),
            layout=_field(parameters, "layout", _LAYOUTS.__contains__, "NCHW"),
            color=color,
            range=(low, high),
            mean=_per_channel(parameters, "mean", channels),
            std=std,
            fit=_field(parameters, "fit", tuple(_FITS).__contains__, "stretch"),
        )


_LAYOUTS: Final = ("NCHW", "NHWC", "CHW", "HWC")
_MAX_SIDE: Final = 8192


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value <= _MAX_SIDE


def _bad_spec(key: str, value: object) -> UpstreamUnavailableError:
    return UpstreamUnavailableError(f"the model's metadata has image.{key} = {value!r:.80}")


def _field(
    parameters: Mapping[str, Any], key: str, is_valid: Callable[[Any], object], default: Any = None
) -> Any:
    value = parameters.get(key, default)
    if not is_valid(value):
        raise _bad_spec(key, value)
    return value


def _per_channel(
    parameters: Mapping[str, Any], key: str, channels: int
) -> tuple[float, ...] | None:
    """One number per channel; one alone counts for all."""
    value = parameters.get(key)
    if isinstance(value, list) and len(value) == 1:
        return (_numbers(parameters, key, 1) or ()) * channels
    return _numbers(parameters, key, channels)


def _numbers(parameters: Mapping[str, Any], key: str, count: int) -> tuple[float, ...] | None:
    value = parameters.get(key)
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(type(item) in (int, float) and math.isfinite(item) for item in value)
    ):
        raise _bad_spec(key, value)
    return tuple(map(float, value))


def prepare(image: Image, spec: ImageSpec, datatype: str = "UINT8") -> bytes:
    """The input tensor for `image`: shape `spec.shape`, little-endian, row-major.

    Integer datatypes round and saturate.

    Raises:
        InvalidInputError: The image shows nothing the model could look at.
        UpstreamUnavailableError: The model wants a datatype that images are not made into.
    """
    if datatype not in IMAGE_DATATYPES:
        raise UpstreamUnavailableError(
            f"the model's image input has datatype {datatype}; "
            f"{', '.join(sorted(IMAGE_DATATYPES))} can be made"
        )
    fitted = _FITS[spec.fit](image, spec.width, spec.height)
    colored = to_gray(fitted) if spec.color == "gray" else to_rgb(fitted)
    planes = [
        _convert(colored.pixels[channel :: spec.channels], _values(spec, channel), datatype)
        for channel in range(spec.channels)
    ]
    if spec.channels == 1 or spec.layout.endswith("CHW"):
        return b"".join(planes)
    return _interleave(planes, struct.calcsize(_PACK_CODES[datatype]))


def _fit_stretch(image: Image, width: int, height: int) -> Image:
    return resize(image, width, height)


def _fit_cover(image: Image, width: int, height: int) -> Image:
    """The largest central part with the target's aspect, resized."""
    part_width = max(1, min(image.width, image.height * width // height))
    part_height = max(1, min(image.height, image.width * height // width))
    left, top = (image.width - part_width) // 2, (image.height - part_height) // 2
    return resize(crop(image, left, top, part_width, part_height), width, height)


def _fit_contain(image: Image, width: int, height: int) -> Image:
    """The whole image, resized into the middle of a black frame."""
    inner_width = max(1, min(width, image.width * height // image.height))
    inner_height = max(1, min(height, image.height * width // image.width))
    inner = resize(image, inner_width, inner_height)
    left = (width - inner_width) // 2 * image.channels
    right = (width - inner_width) * image.channels - left
    top = (height - inner_height) // 2
    stride = width * image.channels
    body = b"".join([bytes(left) + row + bytes(right) for row in inner.rows()])
    pixels = bytes(top * stride) + body + bytes((height - inner_height - top) * stride)
    return Image(width, height, image.channels, pixels)


_FITS: Final[dict[str, Callable[[Image, int, int], Image]]] = {
    "ink": fit_ink,
    "contain": _fit_contain,
    "cover": _fit_cover,
    "stretch": _fit_stretch,
}


def _values(spec: ImageSpec, channel: int) -> list[float]:
    """The tensor's value for each of the 256 levels of a channel."""
    low, high = spec.range
    mean = spec.mean[channel] if spec.mean else 0.0
    std = spec.std[channel] if spec.std else 1.0
    return [(low + level * (high - low) / 255 - mean) / std for level in range(256)]


def _convert(plane: bytes, values: list[float], datatype: str) -> bytes:
    """Every pixel replaced by its value in the tensor."""
    code = _PACK_CODES[datatype]
    if datatype in _INTEGER_RANGES:
        low, high = _INTEGER_RANGES[datatype]
        levels = [max(low, min(high, round(value))) for value in values]
        return plane.translate(b"".join([struct.pack(code, level) for level in levels]))
    try:
        table = [struct.pack(code, value) for value in values]
    except OverflowError as error:
        raise UpstreamUnavailableError(
            f"the model's image range does not fit its datatype {datatype}"
        ) from error
    return b"".join(map(table.__getitem__, plane))


def _interleave(planes: list[bytes], size: int) -> bytes:
    """Values of `size` bytes, planes side by side instead of one after the other."""
    result = bytearray(len(planes) * len(planes[0]))
    step = len(planes) * size
    for channel, plane in enumerate(planes):
        for byte in range(size):
            result[channel * size + byte :: step] = plane[byte::size]
    return bytes(result)
