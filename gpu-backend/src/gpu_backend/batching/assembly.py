"""One execution's arrays from many items, and each item's share of what comes out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_backend.batching.item import Item
from gpu_backend.batching.policy import Padding
from gpu_backend.errors import ExecutionFailedError
from gpu_backend.execution.datatypes import Array

__all__ = ["assemble", "split"]


def assemble(items: Sequence[Item], padding: Padding | None) -> dict[str, Array]:
    """Feeds of all `items`, one below the other.

    Args:
        items: At least one; all of one shape key.
        padding: Fills shorter items up to the longest.
    """
    first = items[0]
    if len(items) == 1:
        return dict(first.feeds)
    longest = max(item.length for item in items)
    uneven = padding is not None and any(item.length != longest for item in items)
    feeds: dict[str, Array] = {}
    for name in first.feeds:
        arrays = [item.feeds[name] for item in items]
        if uneven and padding is not None:
            feeds[name] = _stack_padded(arrays, longest, padding.axis, _fill(padding, name))
        else:
            feeds[name] = np.concatenate(arrays)
    return feeds


def _fill(padding: Padding, name: str) -> float:
    return dict(padding.values).get(name, 0)


def _stack_padded(arrays: list[Array], longest: int, axis: int, fill: float) -> Array:
    shape = list(arrays[0].shape)
    if len(shape) <= axis:
        return np.concatenate(arrays)  # this input has no such axis
    shape[0] = sum(array.shape[0] for array in arrays)
    shape[axis] = longest
    stacked = np.full(shape, fill, arrays[0].dtype)
    row = 0
    for array in arrays:
        target = stacked[row : row + array.shape[0]]
        target[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
        row += array.shape[0]
    return stacked


def split(
    outputs: Sequence[Array],
    names: Sequence[str],
    items: Sequence[Item],
    padding: Padding | None,
) -> list[list[Array]]:
    """Each item's outputs: views of `outputs`, nothing is copied.

    Args:
        outputs: Of one execution.
        names: Of the outputs.
        items: Those the execution was assembled from.
        padding: Outputs it names are cut back to each item's own length.

    Raises:
        ExecutionFailedError: An output does not have one row per input row: the model only
            looks as if it could be batched.
    """
    if len(items) == 1:
        return [list(outputs)]
    rows = sum(item.rows for item in items)
    for name, output in zip(names, outputs, strict=True):
        if output.ndim == 0 or output.shape[0] != rows:
            raise ExecutionFailedError(
                f"output {name!r} has shape {list(output.shape)} for {rows} rows: "
                "set max_batch = 1 in [batching] of model.toml"
            )
    shares: list[list[Array]] = []
    row = 0
    for item in items:
        part = slice(row, row + item.rows)
        shares.append(
            [
                _cut(output[part], name, item, padding)
                for name, output in zip(names, outputs, strict=True)
            ]
        )
        row += item.rows
    return shares


def _cut(output: Array, name: str, item: Item, padding: Padding | None) -> Array:
    if padding is None or name not in padding.outputs or output.ndim <= padding.axis:
        return output
    return output[(slice(None),) * padding.axis + (slice(item.length),)]
