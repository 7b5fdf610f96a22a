"""Encoded pictures in, named classes out; and agreement with what the edge computes."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from edgekit.processing import raster
from edgekit.processing.preparation import ImageSpec
from edgekit.processing.preparation import prepare as prepare_at_the_edge
from edgekit.processing.tensor import top_k as top_k_at_the_edge
from fakes.backend_app import Backend, running_app
from fakes.onnx_models import classifier, write_model
from gpu_backend.errors import ExecutionFailedError, InvalidInputError, OverloadedError
from gpu_backend.execution.datatypes import BY_NAME
from gpu_backend.processing.classes import top_classes
from gpu_backend.processing.pictures import decode_picture
from gpu_backend.processing.pool import CodecPool
from gpu_backend.processing.preparation import prepare
from gpu_backend.repository.manifest import ImageHints

CLASSIFY = "/v2/models/digits/classify"


def picture(size: tuple[int, int] = (40, 30), mode: str = "RGB", seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0]) if channels == 1 else (size[1], size[0], channels)
    return Image.fromarray(random.integers(0, 256, shape).astype(np.uint8), mode=None)


def sign(size: int = 60, width: int = 6, dark_on_light: bool = True) -> Image.Image:
    """A seven."""
    ground, ink = (255, 0) if dark_on_light else (0, 255)
    image = Image.new("L", (size, size), ground)
    points = [(size * 0.2, size * 0.2), (size * 0.8, size * 0.2), (size * 0.4, size * 0.85)]
    ImageDraw.Draw(image).line(points, fill=ink, width=width, joint="curve")
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


async def classify(
    backend: Backend, data: bytes, content_type: str = "image/png", query: str = "", **headers: str
) -> httpx.Response:
    headers["content-type"] = content_type
    return await backend.client.post(CLASSIFY + query, content=data, headers=headers)


async def test_classify_answers_in_the_form_of_the_edge(backend: Backend) -> None:
    response = await classify(backend, encoded(picture()), **{"X-Request-Id": "r1"})
    assert response.status_code == 200
    document = response.json()
    assert list(document) == ["predictions", "model", "model_version", "runtime", "latency_ms"]
    assert len(document["predictions"]) == 5
    best = document["predictions"][0]
    assert best["label"] == f"digit {best['class_id']}"
    assert document["runtime"] == "onnxruntime/CPUExecutionProvider"
    assert document["model_version"] == "1"
    assert response.headers["inference-model"].startswith("digits;version=1;digest=sha256:")
    assert response.headers["server-timing"].startswith("decode;dur=")
    assert response.headers["x-request-id"] == "r1"


async def test_classify_is_infer_with_the_tensor_that_the_manifest_describes(
    backend: Backend,
) -> None:
    image = picture()
    hints = (await backend.repository.get("digits")).manifest.image
    assert hints is not None
    pixels = prepare(image, hints, BY_NAME["UINT8"])
    tensor = {"name": "image", "datatype": "UINT8", "shape": pixels.shape}
    body = json.dumps({"inputs": [{**tensor, "data": pixels.reshape(-1).tolist()}]})
    infer = await backend.client.post("/v2/models/digits/infer", content=body)
    scores = np.array(infer.json()["outputs"][0]["data"])
    powers = np.exp(scores - scores.max())
    document = (await classify(backend, encoded(image), query="?top_k=10")).json()
    for prediction in document["predictions"]:
        expected = powers[prediction["class_id"]] / powers.sum()
        assert prediction["confidence"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("form", "content_type", "mode"),
    [
        ("PNG", "image/png", "RGB"),
        ("PNG", "image/png", "L"),
        ("PNG", "image/png", "RGBA"),
        ("PNG", "image/png; charset=binary", "RGB"),
        ("JPEG", "image/jpeg", "RGB"),
        ("JPEG", "image/jpeg", "L"),
        ("WEBP", "image/webp", "RGB"),
        ("GIF", "image/gif", "L"),
        ("BMP", "image/bmp", "RGB"),
        ("TIFF", "image/tiff", "RGB"),
        ("PPM", "image/x-portable-pixmap", "RGB"),
        ("JPEG", "application/octet-stream", "RGB"),
        ("JPEG", "", "RGB"),
    ],
)
async def test_classify_takes_the_usual_formats(
    backend: Backend, form: str, content_type: str, mode: str
) -> None:
    response = await classify(backend, encoded(picture(mode=mode), form), content_type)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("query", "count"), [("?top_k=1", 1), ("?top_k=1000", 10), ("?threshold=1", 0), ("?x=1", 5)]
)
async def test_query_bounds_what_is_answered(backend: Backend, query: str, count: int) -> None:
    # Noise leaves no class at a confidence of exactly 1.
    response = await classify(backend, encoded(picture()), query=query)
    predictions = response.json()["predictions"]
    assert len([p for p in predictions if p["confidence"] < 1 or count]) == count


@pytest.mark.parametrize(
    "query", ["?top_k=0", "?top_k=-1", "?top_k=1001", "?top_k=x", "?threshold=2", "?threshold=nan"]
)
async def test_query_out_of_range_is_refused(backend: Backend, query: str) -> None:
    response = await classify(backend, encoded(picture()), query=query)
    assert response.status_code == 400
    assert response.json()["param"] in ("top_k", "threshold")


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose head claims a size that its data does not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


PNG = encoded(picture())


@pytest.mark.parametrize(
    ("data", "content_type", "status", "text"),
    [
        (b"", "image/png", 400, "is not image/png, or is damaged"),
        (b"garbage", "image/png", 400, "is not image/png, or is damaged"),
        (b"garbage", "", 400, "not a picture of a known format"),
        (PNG[:200], "image/png", 400, "is damaged"),
        (PNG[:60] + b"\0\0\0" + PNG[63:], "image/png", 400, "is damaged"),
        (encoded(picture(), "JPEG"), "image/png", 400, "is not image/png"),
        (PNG, "text/html", 415, "'text/html' is not read here"),
        (PNG, "image/svg+xml", 415, "'image/svg+xml' is not read here"),
        (png_of_size(40_000, 40_000), "image/png", 413, "40000 x 40000 pixels"),
        (png_of_size(900, 900), "image/png", 400, "is damaged"),
        (encoded(Image.new("L", (50, 50), 7)), "image/png", 200, ""),
    ],
    ids=[
        "empty",
        "garbage",
        "unknown",
        "cut",
        "crc",
        "other",
        "html",
        "svg",
        "bomb",
        "short",
        "ok",
    ],
)
async def test_bad_picture_is_refused_with_a_reason(
    backend: Backend, data: bytes, content_type: str, status: int, text: str
) -> None:
    response = await classify(backend, data, content_type)
    assert response.status_code == status
    assert text in response.text


async def test_blank_picture_for_a_drawn_sign_is_refused(tmp_path: Path) -> None:
    manifest = (
        '[image]\ninput = "image"\nwidth = 8\nheight = 8\ncolor = "gray"\nfit = "ink"\n'
        '[output]\nname = "logits"\n'
    )
    write_model(tmp_path, "digits", classifier(), manifest)
    async with running_app(tmp_path) as backend:
        blank = await classify(backend, encoded(Image.new("L", (50, 50), 200)))
        assert blank.status_code == 400
        assert "blank" in blank.json()["error"]
        drawn = await classify(backend, encoded(sign()))
        assert drawn.status_code == 200


async def test_classify_of_a_model_that_takes_no_pictures_is_refused(backend: Backend) -> None:
    response = await backend.client.post("/v2/models/lookup/classify", content=PNG)
    assert response.status_code == 400
    assert "model.toml lacks [image]" in response.json()["error"]
    assert (await backend.client.get(CLASSIFY)).status_code == 405
    unknown = await backend.client.post("/v2/models/nobody/classify", content=PNG)
    assert unknown.status_code == 404


def test_sixteen_bits_are_scaled_not_cut_off() -> None:
    levels = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    data = encoded(Image.fromarray(levels))
    read = decode_picture(data, "image/png", max_pixels=100, target=(5, 1))
    assert np.asarray(read).tolist() == [[0, 0, 1, 128, 255]]


def test_clear_pixels_are_laid_on_white() -> None:
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (10, 20, 30, 255))
    read = decode_picture(encoded(clear), "image/png", max_pixels=100, target=(2, 1))
    assert np.asarray(read).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_palette_with_a_clear_colour_is_laid_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 50, 60, 70])
    image.putpixel((1, 0), 1)
    data = encoded(image, transparency=0)
    read = decode_picture(data, "image/png", max_pixels=100, target=(2, 1))
    assert np.asarray(read).tolist() == [[[255, 255, 255], [50, 60, 70]]]


def test_photograph_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    data = encoded(picture((40, 30)), "JPEG", exif=exif)
    read = decode_picture(data, "image/jpeg", max_pixels=10_000, target=(40, 30))
    assert read.size == (30, 40)


def test_large_jpeg_is_decoded_at_a_smaller_scale() -> None:
    data = encoded(picture((1600, 1200)), "JPEG")
    read = decode_picture(data, "image/jpeg", max_pixels=10_000_000, target=(32, 32))
    assert 128 <= read.width <= 400


FITS = ["stretch", "cover", "contain"]
LAYOUTS = ["NCHW", "NHWC", "CHW", "HWC"]


def at_the_edge(image: Image.Image, hints: ImageHints, datatype: str) -> np.ndarray[Any, Any]:
    channels = len(image.getbands())
    spec = ImageSpec(
        hints.input,
        hints.width,
        hints.height,
        hints.layout,
        hints.color,
        hints.range,
        hints.mean,
        hints.std,
        hints.fit,
    )
    data = prepare_at_the_edge(
        raster.Image(image.width, image.height, channels, image.tobytes()), spec, datatype
    )
    return np.frombuffer(data, BY_NAME[datatype].dtype).reshape(spec.shape)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("color", ["gray", "rgb"])
@pytest.mark.parametrize("size", [(40, 30), (9, 50), (5, 5), (8, 6)])
def test_backend_and_edge_make_the_same_tensor(
    fit: str, layout: str, color: str, size: tuple[int, int]
) -> None:
    hints = ImageHints("x", 8, 6, layout, color, fit=fit)
    for mode in ("L", "RGB"):
        image = picture(size, mode)
        here = prepare(image, hints, BY_NAME["UINT8"])
        np.testing.assert_array_equal(here, at_the_edge(image, hints, "UINT8"))


@pytest.mark.parametrize("datatype", ["INT8", "UINT8", "FP16", "FP32", "FP64"])
def test_backend_and_edge_normalise_alike(datatype: str) -> None:
    hints = ImageHints("x", 40, 30, range=(-1.0, 1.0), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    image = picture()
    here = prepare(image, hints, BY_NAME[datatype]).astype(float)
    np.testing.assert_allclose(here, at_the_edge(image, hints, datatype).astype(float), rtol=1e-6)


@pytest.mark.parametrize("size", [28, 60, 96, 200])
@pytest.mark.parametrize("dark_on_light", [True, False])
@pytest.mark.parametrize("target", [8, 28])
def test_backend_and_edge_see_the_same_sign(size: int, dark_on_light: bool, target: int) -> None:
    image = sign(size, max(2, size // 10), dark_on_light)
    noisy = np.asarray(image).astype(int) + np.random.default_rng(1).integers(-6, 7, (size, size))
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    hints = ImageHints("x", target, target, color="gray", fit="ink")
    here = prepare(image, hints, BY_NAME["UINT8"])
    assert here.max() == 255
    np.testing.assert_array_equal(here, at_the_edge(image, hints, "UINT8"))


def test_sign_of_exact_size_is_taken_as_it_is() -> None:
    levels = np.zeros((8, 8), dtype=np.uint8)
    levels[2:6, 3] = 16
    hints = ImageHints("x", 8, 8, color="gray", fit="ink")
    here = prepare(Image.fromarray(levels), hints, BY_NAME["UINT8"])
    assert here[0, 0, 2:6, 3].tolist() == [255] * 4
    np.testing.assert_array_equal(here, at_the_edge(Image.fromarray(levels), hints, "UINT8"))


@settings(max_examples=60)
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30),
    st.integers(1, 40),
    st.floats(0, 1),
)
def test_backend_and_edge_name_the_same_classes(
    scores: list[float], top_k: int, threshold: float
) -> None:
    here = top_classes(
        np.array(scores, np.float64), kind="logits", labels=(), top_k=top_k, threshold=threshold
    )
    there = top_k_at_the_edge(scores, k=top_k, threshold=threshold)
    if len(here) == len(there):  # a confidence that equals the threshold may round either way
        for mine, theirs in zip(here, there, strict=True):
            assert mine.confidence == pytest.approx(theirs.confidence, abs=1e-12)
    else:
        longer = here if len(here) > len(there) else there
        assert longer[-1].confidence == pytest.approx(threshold, abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "kind", "labels", "text"),
    [
        ([float("nan"), 1.0], "logits", (), "no maximum"),
        ([float("inf"), 1.0], "logits", (), "no maximum"),
        ([], "logits", (), "no maximum"),
        ([0.5, 1.5], "probabilities", (), "outside 0 to 1"),
        ([0.5, 0.5], "logits", ("one",), "2 classes, it has 1 labels"),
    ],
)
def test_scores_that_make_no_sense_are_the_models_fault(
    scores: list[float], kind: str, labels: tuple[str, ...], text: str
) -> None:
    with pytest.raises(ExecutionFailedError, match=text):
        top_classes(np.array(scores), kind=kind, labels=labels, top_k=5, threshold=0)


async def test_pool_refuses_what_would_wait_too_long() -> None:
    gate = threading.Event()
    pool = CodecPool(workers=1, max_wait_s=0.5)
    pool._mean_s = 1.0
    running = asyncio.create_task(pool.run(lambda: gate.wait(30)))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as caught:
        await pool.run(lambda: True)
    assert caught.value.retry_after_s == pytest.approx(0.5)
    gate.set()
    assert await running
    pool.close()


def test_tensor_of_text_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="not made into BYTES"):
        prepare(picture(), ImageHints("x", 8, 8), BY_NAME["BYTES"])
