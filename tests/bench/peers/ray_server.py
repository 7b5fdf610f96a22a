"""Ray Serve: one replica with `serve.batch`, a starlette request in, JSON out."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import ray  # type: ignore[import-not-found,unused-ignore]
from ray import serve
from starlette.requests import Request

from bench.peers.onnx_model import MAX_BATCH, Model, arguments


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Onnx:
    """The model file behind Ray's deployment."""

    def __init__(self, file: str, threads: int) -> None:
        self._onnx = Model(Path(file), threads)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator,unused-ignore]
    async def infer(self, requests: list[dict[str, Any]]) -> list[Any]:
        """One execution for the batch."""
        return self._onnx.run_together([self._onnx.feeds(each["inputs"]) for each in requests])

    async def __call__(self, request: Request) -> dict[str, Any]:
        """The protocol's JSON."""
        output = await self.infer(await request.json())
        return self._onnx.answer(output)


if __name__ == "__main__":
    given = arguments()
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": given.port})
    deployment: Any = Onnx
    serve.run(deployment.bind(str(given.model), given.threads))
    threading.Event().wait()
