"""Triton as nvidia-pytriton carries it: its HTTP frontend and batcher, Python behind them."""

from __future__ import annotations

from typing import Any

from pytriton.decorators import batch  # type: ignore[import-not-found,unused-ignore]
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor  # type: ignore[import-not-found,unused-ignore]
from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found,unused-ignore]

from bench.peers.onnx_model import DTYPES, MAX_BATCH, Model, arguments


def main() -> None:
    """Serve until terminated."""
    given = arguments()
    onnx = Model(given.model, given.threads)

    @batch  # type: ignore[untyped-decorator,unused-ignore]
    def infer(**feeds: Any) -> dict[str, Any]:
        return {onnx.output: onnx.run(feeds)}

    def fixed(shape: list[Any]) -> tuple[int, ...]:
        return tuple(side if isinstance(side, int) else -1 for side in shape[1:])

    config = TritonConfig(
        http_port=given.port,
        http_address="127.0.0.1",
        metrics_port=given.port + 1,
        allow_grpc=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            onnx.name,
            infer,
            [
                Tensor(name=name, dtype=DTYPES[datatype], shape=fixed(shape))
                for name, (datatype, shape) in onnx.inputs.items()
            ],
            [Tensor(name=onnx.output, dtype=DTYPES["FP32"], shape=fixed(onnx.output_shape))],
            config=ModelConfig(
                max_batch_size=MAX_BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=0)
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
