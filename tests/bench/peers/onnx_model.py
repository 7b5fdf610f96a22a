"""What every peer's server does alike: open the model, read and write Open Inference Protocol JSON.

Runs in the peer's environment, so it needs numpy and onnxruntime alone. Framework code around it
is the peer's own; where a peer speaks the protocol itself, only `Model` is used.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

__all__ = ["DTYPES", "Arguments", "Model", "arguments"]

MAX_BATCH = 64
"""Rows of one execution, for every peer; as many as ours takes by default."""

DTYPES: dict[str, Any] = {"UINT8": np.uint8, "INT64": np.int64, "FP32": np.float32}

_ONNX = {"tensor(uint8)": "UINT8", "tensor(int64)": "INT64", "tensor(float)": "FP32"}


@dataclass(frozen=True, slots=True)
class Arguments:
    """How the benchmark calls every server.

    Attributes:
        model: The ONNX file.
        port: To listen on at 127.0.0.1.
        threads: Of one execution.
    """

    model: Path
    port: int
    threads: int


def arguments() -> Arguments:
    """The command line: MODEL PORT THREADS."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("threads", type=int)
    given = parser.parse_args()
    return Arguments(given.model, given.port, given.threads)


class Model:
    """A session with the settings that all servers of the benchmark share.

    Args:
        file: The ONNX file.
        threads: Of one execution.
    """

    def __init__(self, file: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Client and server share the cores: waiting threads must not hold one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self.name = file.parents[1].name
        self.inputs = {
            each.name: (_ONNX[each.type], list(each.shape)) for each in self._session.get_inputs()
        }
        self.output = self._session.get_outputs()[0].name
        self.output_shape = list(self._session.get_outputs()[0].shape)

    def run(self, feeds: Mapping[str, Any]) -> Any:
        """The first output, float32, for arrays by input name; rows are stacked on axis 0."""
        return self._session.run([self.output], dict(feeds))[0]

    def feeds(self, tensors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Arrays by name, from the `inputs` of one JSON request."""
        return {
            each["name"]: np.array(each["data"], DTYPES[each["datatype"]]).reshape(each["shape"])
            for each in tensors
        }

    def run_together(self, requests: Sequence[Mapping[str, Any]]) -> list[Any]:
        """One execution for several requests of one row each; shorter rows are padded with 0.

        Args:
            requests: Arrays by name, each of shape (1, …).

        Returns:
            The output row of every request, of shape (1, …).
        """
        if len(requests) == 1:
            return [self.run(requests[0])]
        stacked = {}
        for name in requests[0]:
            rows = [each[name] for each in requests]
            longest = max(row.shape[1] for row in rows)
            padded = [
                row
                if row.shape[1] == longest
                else np.pad(row, [(0, 0), (0, longest - row.shape[1])])
                for row in rows
            ]
            stacked[name] = np.concatenate(padded)
        together = self.run(stacked)
        return [together[i : i + 1] for i in range(len(requests))]

    def answer(self, array: Any) -> dict[str, Any]:
        """A JSON answer of the protocol."""
        output = {
            "name": self.output,
            "datatype": "FP32",
            "shape": list(array.shape),
            "data": array.ravel().tolist(),
        }
        return {"model_name": self.name, "outputs": [output]}
