"""Pictures at another size, by the same rules as at the edge.

Along an axis that shrinks, a pixel of the result is the average of the area it covers; along one
that grows, it is interpolated linearly.
"""

from __future__ import annotations

from PIL import Image

__all__ = ["FITS", "resize"]


def resize(picture: Image.Image, width: int, height: int) -> Image.Image:
    """`picture` at `width` x `height`."""
    if height != picture.height:
        picture = picture.resize((picture.width, height), _filter(picture.height, height))
    if width != picture.width:
        picture = picture.resize((width, picture.height), _filter(picture.width, width))
    return picture


def _filter(source: int, target: int) -> Image.Resampling:
    return Image.Resampling.BOX if target < source else Image.Resampling.BILINEAR


def _fit_cover(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The largest central part with the target's aspect, resized."""
    part_width = max(1, min(picture.width, picture.height * width // height))
    part_height = max(1, min(picture.height, picture.width * height // width))
    left, top = (picture.width - part_width) // 2, (picture.height - part_height) // 2
    part = picture.crop((left, top, left + part_width, top + part_height))
    return resize(part, width, height)


def _fit_contain(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The whole picture, resized into the middle of a black frame."""
    inner_width = max(1, min(width, picture.width * height // picture.height))
    inner_height = max(1, min(height, picture.height * width // picture.width))
    frame = Image.new(picture.mode, (width, height))
    inner = resize(picture, inner_width, inner_height)
    frame.paste(inner, ((width - inner_width) // 2, (height - inner_height) // 2))
    return frame


FITS = {"stretch": resize, "cover": _fit_cover, "contain": _fit_contain}
"""Ways to bring a picture to a size, by the name that `fit` has in a manifest; `ink` apart."""
