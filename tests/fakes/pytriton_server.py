"""A real Triton that serves identities; run by an interpreter that has nvidia-pytriton.

    python pytriton_server.py PORT          prints READY when it serves

Its models have the names and tensors of `fakes.onnx_models.identity`, so both servers get the
same requests.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from pytriton.decorators import batch  # type: ignore[import-not-found,unused-ignore]
from pytriton.model_config import (  # type: ignore[import-not-found,unused-ignore]
    ModelConfig,
    Tensor,
)
from pytriton.triton import (  # type: ignore[import-not-found,unused-ignore]
    Triton,
    TritonConfig,
)

KINDS: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "BYTES": np.object_,
}


@batch  # type: ignore[untyped-decorator,unused-ignore]
def identity(x: Any) -> dict[str, Any]:
    """What came in."""
    return {"y": x}


def main(port: int) -> None:
    """Serve until terminated."""
    config = TritonConfig(http_port=port, allow_grpc=False, allow_metrics=False)
    with Triton(config=config) as triton:
        for name, kind in KINDS.items():
            triton.bind(
                f"identity_{name}",
                identity,
                [Tensor(name="x", dtype=kind, shape=(-1,))],
                [Tensor(name="y", dtype=kind, shape=(-1,))],
                config=ModelConfig(max_batch_size=64),
            )
        print("READY", flush=True)
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
