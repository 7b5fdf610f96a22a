"""BentoML with adaptive batching over the tensors of the protocol's `inputs`.

The protocol's document is an object with a list named `inputs`; so is a batchable API with one
parameter of that name. Its list holds all tensors of all requests of a batch, in order.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import bentoml  # type: ignore[import-not-found,unused-ignore]

from bench.peers.onnx_model import MAX_BATCH, Model, arguments


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Onnx:
    """The model file behind BentoML's service."""

    def __init__(self) -> None:
        self._onnx = Model(Path(os.environ["PEER_MODEL"]), int(os.environ["PEER_THREADS"]))

    @bentoml.api(  # type: ignore[untyped-decorator,unused-ignore]
        route="/infer", batchable=True, max_batch_size=2 * MAX_BATCH, max_latency_ms=60_000
    )
    def infer(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """An output for every tensor, as the batcher demands; all of a request are the same."""
        width = len(self._onnx.inputs)
        tensors = [inputs[i : i + width] for i in range(0, len(inputs), width)]
        arrays = self._onnx.run_together([self._onnx.feeds(each) for each in tensors])
        answers = [self._onnx.answer(each) for each in arrays]
        return [answer for answer in answers for _ in range(width)]


if __name__ == "__main__":
    given = arguments()
    os.environ["PEER_MODEL"] = str(given.model)
    os.environ["PEER_THREADS"] = str(given.threads)
    place = ["--working-dir", str(Path(__file__).parents[2]), "--host", "127.0.0.1"]
    command = [
        "bentoml",
        "serve",
        "bench.peers.bentoml_server:Onnx",
        "--port",
        str(given.port),
        *place,
    ]
    os.execv(sys.executable, [sys.executable, "-m", *command, "--api-workers", "1"])
