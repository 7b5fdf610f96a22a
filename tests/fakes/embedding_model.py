"""A model that makes vectors of token ids, for `FakeBackend.override`; the arithmetic is plain."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field

from fakes.inference_backend import HEADER_LENGTH, Received, Reply, json_reply, problem_reply

__all__ = ["FakeEmbedder", "vector_of"]

PATH = "/v2/models/vectors"


def vector_of(ids: list[int]) -> list[float]:
    """Number of tokens, first, last, and sum of the ids."""
    return [float(value) for value in (len(ids), ids[0], ids[-1], sum(ids))]


@dataclass
class FakeEmbedder:
    """Answers for the model `vectors`; its fields may be changed between requests."""

    version: str = "1"
    digest: str = "sha256:aaaa"
    max_tokens: int = 8
    vocabulary: str | None = None
    mask: str | None = "mask"
    datatype: str = "FP32"
    says_who: bool = True
    shape: list[int] | None = None
    seen: list[list[list[int]]] = field(default_factory=list)

    def __call__(self, received: Received) -> Reply | None:
        if not received.target.startswith(PATH):
            return None
        rest = received.target.removeprefix(PATH)
        if rest.startswith("/versions/"):
            number, slash, rest = rest.removeprefix("/versions/").partition("/")
            rest = slash + rest
            if number != self.version:
                return problem_reply(404, f"model 'vectors' has no version {number}")
        return json_reply(self.metadata()) if rest == "" else self._infer(received)

    def metadata(self) -> dict[str, object]:
        names = ["ids", *([self.mask] if self.mask else [])]
        return {
            "name": "vectors",
            "versions": [self.version],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": n, "datatype": "INT64", "shape": [-1, -1]} for n in names],
            "outputs": [{"name": "vector", "datatype": self.datatype, "shape": [-1, 4]}],
            "parameters": {
                "version": self.version,
                "digest": self.digest,
                "task": "text-embedding",
                "text": {
                    "input": "ids",
                    "mask": self.mask,
                    "output": "vector",
                    "max_tokens": self.max_tokens,
                    "vocabulary": self.vocabulary,
                },
                "execution_provider": {"active": "CPUExecutionProvider"},
            },
        }

    def _infer(self, received: Received) -> Reply:
        length = int(received.headers[HEADER_LENGTH])
        head = json.loads(received.body[:length])
        rows = self._rows(head["inputs"], received.body[length:])
        self.seen.append(rows)
        numbers = [number for row in rows for number in vector_of(row)]
        code = {"FP32": "f", "FP16": "e"}[self.datatype]
        raw = struct.pack(f"<{len(numbers)}{code}", *numbers)
        output = {
            "name": "vector",
            "datatype": self.datatype,
            "shape": self.shape or [len(rows), 4],
            "parameters": {"binary_data_size": len(raw)},
        }
        answer = json.dumps({"model_version": self.version, "outputs": [output]}).encode()
        headers = [(HEADER_LENGTH, str(len(answer)))]
        if self.says_who:
            who = f'vectors;version="{self.version}";digest="{self.digest}"'
            headers.append(("inference-model", who))
        return Reply(200, headers, answer + raw)

    def _rows(self, inputs: list[dict[str, object]], raw: bytes) -> list[list[int]]:
        """Ids without their padding; without a mask, all of them."""
        shape = inputs[0]["shape"]
        assert isinstance(shape, list)
        count, width = shape
        values = struct.unpack(f"<{len(raw) // 8}q", raw)
        ids, mask = values[: count * width], values[count * width :]
        assert len(mask) == (count * width if self.mask else 0)
        kept = mask or [1] * (count * width)
        return [
            [ids[row * width + place] for place in range(width) if kept[row * width + place]]
            for row in range(count)
        ]
