"""LitServe with its batching and its fast queue, as its documentation advises for throughput."""

from typing import Any

import litserve  # type: ignore[import-not-found,unused-ignore]
from fastapi import Request  # type: ignore[import-not-found,unused-ignore]

from bench.peers.onnx_model import MAX_BATCH, Arguments, Model, arguments


class OnnxApi(litserve.LitAPI):  # type: ignore[misc,unused-ignore]
    """The model file behind LitServe's interface; a batch is whatever waits."""

    def __init__(self, given: Arguments) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=0.0)
        self._given = given

    def setup(self, device: str) -> None:
        """Open the session in the worker."""
        self._onnx = Model(self._given.model, self._given.threads)

    # LitServe reads the annotation, and for a `Request` it passes the parsed JSON.
    def decode_request(self, request: Request) -> dict[str, Any]:
        """Arrays by input name."""
        document: Any = request
        return self._onnx.feeds(document["inputs"])

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leave stacking to the model: rows may be of unlike length."""
        return inputs

    def predict(self, x: list[dict[str, Any]]) -> list[Any]:
        """One execution for the batch."""
        return self._onnx.run_together(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Already one per request."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The protocol's JSON."""
        return self._onnx.answer(output)


if __name__ == "__main__":
    given = arguments()
    server = litserve.LitServer(OnnxApi(given), accelerator="cpu", fast_queue=True, timeout=60)
    server.run(
        host="127.0.0.1",
        port=given.port,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
