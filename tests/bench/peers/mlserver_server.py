"""MLServer with a custom runtime, as its documentation shows.

No parallel workers: a hop between processes costs more than the models here. No adaptive batching,
which is its default: its batcher waits for company, and measured less with it for both models.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from mlserver import MLModel, MLServer, ModelSettings, Settings, types  # type: ignore[import-not-found,unused-ignore]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found,unused-ignore]
from mlserver.settings import ModelParameters  # type: ignore[import-not-found,unused-ignore]

from bench.peers.onnx_model import Model, arguments


class OnnxRuntime(MLModel):  # type: ignore[misc,unused-ignore]
    """The model file behind MLServer's runtime interface."""

    async def load(self) -> bool:
        """Open the session."""
        extra = self.settings.parameters.extra
        self._onnx = Model(Path(self.settings.parameters.uri), extra["threads"])
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """One execution for one request."""
        feeds = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        array = self._onnx.run(feeds)
        return types.InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(self._onnx.output, array)]
        )


async def main() -> None:
    """Serve until terminated."""
    given = arguments()
    ports = {"http_port": given.port, "grpc_port": given.port + 1, "metrics_port": given.port + 2}
    server = MLServer(Settings(host="127.0.0.1", debug=False, parallel_workers=0, **ports))
    parameters = ModelParameters(uri=str(given.model), extra={"threads": given.threads})
    await server.start(
        [
            ModelSettings(
                name=given.model.parents[1].name,
                implementation=OnnxRuntime,
                parameters=parameters,
            )
        ]
    )


if __name__ == "__main__":
    asyncio.run(main())
