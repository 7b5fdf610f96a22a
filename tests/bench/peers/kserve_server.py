"""KServe's Python model server.

It has no batcher of its own: in a cluster an agent beside it does that.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, ModelServer  # type: ignore[import-not-found,unused-ignore]
from kserve import Model as KserveModel

from bench.peers.onnx_model import Arguments, Model, arguments


class OnnxModel(KserveModel):  # type: ignore[misc,unused-ignore]
    """The model file behind KServe's interface."""

    def __init__(self, given: Arguments) -> None:
        super().__init__(given.model.parents[1].name)
        self._onnx = Model(given.model, given.threads)
        self.ready = True

    def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        """One execution for one request."""
        array = self._onnx.run({each.name: each.as_numpy() for each in payload.inputs})
        output = InferOutput(self._onnx.output, list(array.shape), "FP32")
        output.set_data_from_numpy(np.asarray(array), binary_data=payload.use_binary_outputs)
        return InferResponse(
            payload.id or "",
            self.name,
            [output],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


if __name__ == "__main__":
    given = arguments()
    server = ModelServer(
        http_port=given.port, enable_grpc=False, workers=1, enable_latency_logging=False
    )
    # After ModelServer, which configures logging: no server here writes a line per request.
    for name in ("uvicorn.access", "kserve.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server.start([OnnxModel(given)])
