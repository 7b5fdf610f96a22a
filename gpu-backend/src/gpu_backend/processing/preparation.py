"""A picture as the tensor that a model's manifest describes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from gpu_backend.errors import InvalidInputError
from gpu_backend.execution.datatypes import Array, Datatype, to_bfloat16
from gpu_backend.processing.ink import fit_ink
from gpu_backend.processing.resizing import FITS, to_gray
from gpu_backend.repository.manifest import ImageHints

__all__ = ["prepare"]


def prepare(picture: Image.Image, hints: ImageHints, datatype: Datatype) -> Array:
    """The input tensor: one picture, in `hints.layout`, of `datatype`. Integers saturate.

    Raises:
        InvalidInputError: The picture shows nothing the model could look at.
    """
    fit = fit_ink if hints.fit == "ink" else FITS[hints.fit]
    pixels = np.asarray(picture).reshape(picture.height, picture.width, -1)
    fitted = fit(pixels, hints.width, hints.height)
    table = _table(hints, datatype)
    if hints.color == "gray":
        fitted = to_gray(fitted)
    last = fitted.shape[2] - 1  # a gray picture gives every channel its one
    values = np.stack([table[i][fitted[:, :, min(i, last)]] for i in range(len(table))])
    if hints.layout.endswith("HWC"):
        values = values.transpose(1, 2, 0)
    if hints.layout.startswith("N"):
        values = values[None]
    return np.ascontiguousarray(values)


def _table(hints: ImageHints, datatype: Datatype) -> Array:
    """For each channel the tensor's value for each of the 256 levels."""
    channels = 1 if hints.color == "gray" else 3
    low, high = hints.range
    levels = low + np.arange(256) * (high - low) / 255
    mean = np.resize(np.array(hints.mean or (0.0,)), channels)
    std = np.resize(np.array(hints.std or (1.0,)), channels)
    values = (levels[None, :] - mean[:, None]) / std[:, None]
    if datatype.name == "BF16":
        return to_bfloat16(values)
    if datatype.kind == "float":
        return values.astype(datatype.dtype)
    if datatype.kind == "integer":
        limits = np.iinfo(datatype.dtype)
        return np.clip(np.rint(values), limits.min, limits.max).astype(datatype.dtype)
    raise InvalidInputError(f"pictures are not made into {datatype.name} tensors")
