"""A scripted inference backend: Open Inference Protocol v2 over tiny models, and faults on demand.

`FakeBackend.answer` is the whole behaviour; tests call it in process (`fakes.edge_ports`) or over
sockets (`fakes.inference_server`), so one script drives native and Wasm tests alike.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import unquote

__all__ = ["FakeBackend", "FakeModel", "Fault", "Received", "Reply", "default_model"]

HEADER_LENGTH = "inference-header-content-length"


class Fault(Enum):
    """How a backend fails below HTTP."""

    NONE = "none"
    REFUSE = "refuse"
    """Nobody listens."""
    RESET = "reset"
    """The connection closes without an answer."""
    HANG = "hang"
    """No answer, ever."""
    BREAK_BODY = "break-body"
    """The connection closes in the middle of the body."""


@dataclass
class Reply:
    """What goes back; `pieces` splits the body into chunks that are sent one by one."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    fault: Fault = Fault.NONE
    pieces: int = 1

    def chunks(self) -> Iterator[bytes]:
        size = max(1, -(-len(self.body) // self.pieces))
        for start in range(0, len(self.body), size):
            yield self.body[start : start + size]


@dataclass(frozen=True)
class Received:
    """One request as the backend saw it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeModel:
    """An image classifier over 8 × 8 gray pixels: the score of class `c` is pixel `c` / 25.5."""

    name: str = "pixels"
    version: str = "1"
    digest: str = "sha256:aaaa"
    labels: list[str] = field(
        default_factory=lambda: ["zero", "one", "two", "three", "four",
                                 "five", "six", "seven", "eight", "nine"]
    )  # fmt: skip
    image: dict[str, object] = field(
        default_factory=lambda: {
            "input": "image", "layout": "NCHW", "width": 8, "height": 8, "color": "gray",
            "range": [0, 255], "mean": None, "std": None, "fit": "stretch",
        }
    )  # fmt: skip
    output_kind: str = "logits"
    provider: str = "CPUExecutionProvider"

    def metadata(self) -> dict[str, object]:
        height, width = self.image["height"], self.image["width"]
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, height, width]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
            "parameters": {
                "version": self.version,
                "digest": self.digest,
                "task": "image-classification",
                "image": self.image,
                "output": {"name": "logits", "kind": self.output_kind},
                "labels": self.labels,
                "execution_provider": {
                    "requested": "auto",
                    "active": self.provider,
                    "available": [self.provider],
                    "reason": "the only one",
                },
            },
        }

    def identity(self) -> str:
        return (
            f'{self.name};version="{self.version}";digest="{self.digest}"'
            f';provider="{self.provider}"'
        )

    def scores(self, pixels: bytes) -> list[float]:
        return [pixels[index] / 25.5 for index in range(10)]


def default_model() -> FakeModel:
    return FakeModel()


Override = Callable[[Received], Reply | None]


class FakeBackend:
    """Serves models; `override` may answer first, `fault` hits every request."""

    def __init__(self, models: Iterable[FakeModel] | None = None) -> None:
        self.models = {model.name: model for model in models or [default_model()]}
        self.ready = True
        self.fault = Fault.NONE
        self.override: Override | None = None
        self.received: list[Received] = []

    def reset(self) -> None:
        """As made: one model, no faults, nothing received."""
        self.__init__()  # type: ignore[misc]

    def answer(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> Reply:
        fields = {name.lower(): value for name, value in headers}
        received = Received(method, target, fields, body)
        self.received.append(received)
        reply = self.override(received) if self.override else None
        reply = reply or self._route(received)
        if self.fault is not Fault.NONE:
            reply.fault = self.fault
        return reply

    def infer_calls(self) -> list[Received]:
        return [call for call in self.received if call.target.endswith("/infer")]

    def metadata_calls(self) -> list[Received]:
        return [
            call for call in self.received
            if call.method == "GET" and call.target.startswith("/v2/models/")
        ]  # fmt: skip

    def _route(self, received: Received) -> Reply:
        path = received.target.partition("?")[0]
        segments = [unquote(part) for part in path.strip("/").split("/")]
        match segments:
            case ["v2", "health", "ready"]:
                return json_reply({"ready": self.ready}, 200 if self.ready else 503)
            case ["v2", "echo"]:
                return echo_reply(received)
            case ["v2", "models", name, *rest]:
                return self._model(received, name, rest)
        return problem_reply(404, f"no route {path}")

    def _model(self, received: Received, name: str, rest: list[str]) -> Reply:
        model = self.models.get(name)
        if model is None:
            return problem_reply(404, f"model {name!r} is not in the repository")
        if rest[:1] == ["versions"]:
            if rest[1] != model.version:
                return problem_reply(404, f"model {name!r} has no version {rest[1]}")
            rest = rest[2:]
        if not rest:
            return json_reply(model.metadata())
        if rest == ["infer"]:
            return self._infer(received, model)
        if rest == ["classify"]:
            return self._classify(received, model)
        return problem_reply(404, "no such action")

    def _infer(self, received: Received, model: FakeModel) -> Reply:
        length = int(received.headers[HEADER_LENGTH])
        head = json.loads(received.body[:length])
        pixels = received.body[length:]
        expected = [1, 1, model.image["height"], model.image["width"]]
        wanted = head["outputs"][0]["name"]
        if head["inputs"][0]["shape"] != expected:
            return problem_reply(400, f"input 'image' has shape {head['inputs'][0]['shape']}")
        if wanted != "logits":
            return problem_reply(400, f"no output {wanted!r}")
        scores = model.scores(pixels)
        raw = struct.pack(f"<{len(scores)}f", *scores)
        answer = json.dumps(
            {
                "model_name": model.name,
                "model_version": model.version,
                "outputs": [
                    {
                        "name": "logits",
                        "datatype": "FP32",
                        "shape": [1, len(scores)],
                        "parameters": {"binary_data_size": len(raw)},
                    }
                ],
            }
        ).encode()
        headers = [
            ("content-type", "application/octet-stream"),
            (HEADER_LENGTH, str(len(answer))),
            ("inference-model", model.identity()),
            ("server-timing", "infer;dur=0.02"),
        ]
        return Reply(200, headers, answer + raw)

    def _classify(self, received: Received, model: FakeModel) -> Reply:
        """Decodes nothing: the last byte of the file is the class, with 0.75; the next has 0.25."""
        if received.headers["content-type"] == "image/tiff":
            return problem_reply(415, "TIFF is not decoded")
        best = received.body[-1] % 10
        predictions = [
            {"class_id": index, "label": model.labels[index], "confidence": confidence}
            for index, confidence in ((best, 0.75), ((best + 1) % 10, 0.25))
        ]
        answer = {
            "predictions": predictions[: int(received.target.partition("top_k=")[2])],
            "model": model.name,
            "model_version": model.version,
            "runtime": f"onnxruntime/{model.provider}",
            "latency_ms": 1.0,
        }
        reply = json_reply(answer)
        reply.headers.append(("inference-model", model.identity()))
        reply.headers.append(("server-timing", "decode;dur=1.5"))
        return reply


def json_reply(document: object, status: int = 200) -> Reply:
    return Reply(status, [("content-type", "application/json")], json.dumps(document).encode())


def problem_reply(status: int, detail: str, **headers: str) -> Reply:
    document = {"status": status, "detail": detail, "error": detail}
    fields = [("content-type", "application/problem+json")]
    fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Reply(status, fields, json.dumps(document).encode())


def echo_reply(received: Received) -> Reply:
    """The request as JSON, so that a test sees what arrived."""
    document = {
        "method": received.method,
        "target": received.target,
        "headers": received.headers,
        "body": received.body.decode("latin-1"),
    }
    reply = json_reply(document)
    reply.headers += [("x-from-backend", "yes"), ("keep-alive", "timeout=5")]
    return reply
