"""GenAI's own generators, one per text, taking turns on one thread.

This is the way for folders that cannot share executions, for texts that a grammar constrains, and
for accelerators where the folder is not built for paged attention. On CPU several generators
together are no faster than one; taking turns only keeps
a late request from waiting for the end of an early one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence as Items
from typing import Any

import numpy as np

from gpu_backend.errors import (
    ExecutionFailedError,
    InvalidInputError,
    ModelInvalidError,
    RequestCancelledError,
)
from gpu_backend.llm.engine import Format
from gpu_backend.llm.genai_folder import GenAIFolder
from gpu_backend.llm.sampling import score
from gpu_backend.llm.sequence import Drawn, Sequence, Task
from gpu_backend.llm.token_bytes import TokenBytes

__all__ = ["GUIDANCE", "GenAIDecoder", "guidance"]

GUIDANCE = {
    "json_object": "json_schema",
    "json_schema": "json_schema",
    "regex": "regex",
    "grammar": "lark_grammar",
}
"""Kinds of `Format` by what `set_guidance` calls them."""

_ANY_OBJECT = '{"type": "object"}'


class GenAIDecoder:
    """The generators of one folder.

    Args:
        folder: What is run, on the execution provider that it names itself.
        tokens: Names tokens in scores.
        max_streams: Texts at a time.

    Raises:
        ModelInvalidError: GenAI cannot load the folder.
    """

    def __init__(self, folder: GenAIFolder, tokens: TokenBytes, max_streams: int) -> None:
        import onnxruntime_genai as genai

        self._genai = genai
        self._tokens = tokens
        self.max_streams = max_streams
        try:
            self._model = genai.Model(str(folder.path))
        except RuntimeError as exc:
            raise ModelInvalidError(f"GenAI cannot load {folder.path}: {exc}") from exc
        self._generators: dict[Sequence, Any] = {}
        self._reading_lock = threading.Lock()
        self._reading: Any = None

    def prefill(self, sequence: Sequence) -> Drawn | None:
        """Read the whole prompt and draw the first token."""
        generator = self._start(sequence.task)
        self._generators[sequence] = generator
        with self._reading_lock:
            self._reading = generator
        try:
            generator.append_tokens(sequence.task.prompt)
        except RuntimeError as exc:
            if sequence.is_cancelled:
                raise RequestCancelledError("the text is not wanted any more") from exc
            raise ExecutionFailedError(f"GenAI failed on the prompt: {exc}") from exc
        finally:
            with self._reading_lock:
                self._reading = None
        return self._draw(sequence)

    def decode(self, sequences: Items[Sequence]) -> list[Drawn | None]:
        """The next token of each, one after the other."""
        return [self._draw(sequence) for sequence in sequences]

    def release(self, sequence: Sequence) -> None:
        """Free the generator and its cache."""
        self._generators.pop(sequence, None)

    def interrupt(self) -> None:
        """Make the reading of a prompt end with an error."""
        with self._reading_lock:
            if self._reading is not None:
                self._reading.set_runtime_option("terminate_session", "1")

    def close(self) -> None:
        """Free the model."""
        self._generators.clear()
        del self._model

    def _start(self, task: Task) -> Any:
        genai = self._genai
        parameters = genai.GeneratorParams(self._model)
        choice = task.choice
        try:
            parameters.set_search_options(
                max_length=len(task.prompt) + task.limit,
                do_sample=not choice.is_greedy,
                temperature=choice.temperature or 1.0,
                top_k=choice.top_k,
                top_p=choice.top_p,
                repetition_penalty=choice.repetition_penalty,
                random_seed=-1 if choice.seed is None else choice.seed & 0x7FFFFFFF,
            )
            if task.format is not None:
                parameters.set_guidance(*guidance(task.format))
            return genai.Generator(self._model, parameters)
        except RuntimeError as exc:
            raise InvalidInputError(f"GenAI refuses the request: {exc}") from exc

    def _draw(self, sequence: Sequence) -> Drawn | None:
        generator = self._generators[sequence]
        if generator.is_done():
            return None
        try:
            wanted = sequence.task.top_logprobs
            logits = None if wanted is None else generator.get_logits().reshape(-1)
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
        except RuntimeError as exc:
            raise ExecutionFailedError(f"GenAI failed: {exc}") from exc
        if wanted is None or logits is None:
            return Drawn(token)
        exact = logits[-len(self._tokens) :].astype(np.float32, copy=False)
        return Drawn(token, score(exact, token, wanted, self._tokens))


def guidance(form: Format) -> tuple[str, str]:
    """Kind and data of `form`, in GenAI's words."""
    kind, data = GUIDANCE[form.kind], form.data or _ANY_OBJECT
    return kind, _compact(data) if kind == "json_schema" else data


def _compact(schema: str) -> str:
    """`schema` for JSON without white space, where small models would write it without end."""
    document = json.loads(schema)
    if isinstance(document, dict):
        document.setdefault("x-guidance", {"whitespace_flexible": False})
    return json.dumps(document)
