"""Continuous batching on CPU: one execution draws the next token of every text.

GenAI's own `Engine` batches statically on CPU, and its generators gain nothing from running side by
side. This decoder runs the folder's graph with plain ONNX Runtime instead: inputs, outputs and the
key/value buffer are bound once, each row has its own length in the attention mask, and a text may
join or leave between any two steps. Prompts are read one at a time, in pieces, into a row of their
own. Greedy output equals GenAI's, as the tests assert.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from gpu_backend.errors import ExecutionFailedError, ModelInvalidError, RequestCancelledError
from gpu_backend.llm.genai_folder import GenAIFolder
from gpu_backend.llm.kv_cache import CachePlan, KVCache, plan_cache
from gpu_backend.llm.sampling import Logits, Sampler, score
from gpu_backend.llm.sequence import Drawn, Sequence
from gpu_backend.llm.token_bytes import TokenBytes

__all__ = ["BatchedDecoder", "BatchedOptions", "why_not_batched"]

_log = logging.getLogger(__name__)

_FAMILIES = frozenset(
    (
        *("llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma", "gemma2", "granite"),
        *("olmo", "nemotron", "smollm3", "ernie4_5"),
    )
)
"""Decoders of one graph whose rows are independent of each other."""

_PHI3_SHORT = 4096
"""Phi-3's long variants switch their rotary tables here, for a whole batch at once."""

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True, slots=True)
class BatchedOptions:
    """Bounds of one model.

    Attributes:
        max_streams: Texts at a time, when memory allows.
        context_length: Shorter than the model's own; 0 takes that.
        cache_bytes: For keys and values of all texts.
        prefill_tokens: Read of a prompt per step; the others wait so long.
        intra_op_threads: Inside one operator; 0 leaves it to ONNX Runtime.
    """

    max_streams: int = 8
    context_length: int = 0
    cache_bytes: int = 1 << 30
    prefill_tokens: int = 256
    intra_op_threads: int = 0


def why_not_batched(folder: GenAIFolder) -> str:
    """Why rows of `folder` cannot share executions; empty when they can."""
    if folder.paged:
        return "it is built for paged attention"
    if folder.family not in _FAMILIES:
        return f"decoders of type {folder.family!r} are not known to have independent rows"
    if not folder.search.get("past_present_share_buffer", False):
        return "its attention does not share the buffer of past and present"
    inputs = set(folder.decoder.get("inputs", {}))
    known = {"input_ids", "attention_mask", "position_ids", "past_key_names", "past_value_names"}
    if inputs - known:
        return f"its graph takes {', '.join(sorted(inputs - known))}"
    return ""


class BatchedDecoder:
    """The decoder of one folder.

    Args:
        folder: What is run.
        tokens: Names tokens in scores.
        options: Bounds.

    Raises:
        ModelInvalidError: The graph cannot be run this way.
    """

    def __init__(self, folder: GenAIFolder, tokens: TokenBytes, options: BatchedOptions) -> None:
        self._tokens = tokens
        self._prefill_tokens = options.prefill_tokens
        self._session = _make_session(folder, options.intra_op_threads)
        inputs = {entry.name: entry for entry in self._session.get_inputs()}
        names = _Names.of(folder)
        missing = [name for name in (names.ids, names.mask, *names.past) if name not in inputs]
        if missing:
            raise ModelInvalidError(f"{folder.graph} has no input {missing[0]!r}")
        if inputs[names.past[0]].type not in _TYPES:
            raise ModelInvalidError(f"{folder.graph} keeps {inputs[names.past[0]].type} in cache")
        self._names = names
        self._has_positions = names.positions in inputs
        dtype = np.dtype(_TYPES[inputs[names.past[0]].type])
        self.plan = self._plan(folder, options, dtype.itemsize)
        self._cache = KVCache(names.past, self.plan, folder.kv_heads, folder.head_size, dtype)
        logits = next(o for o in self._session.get_outputs() if o.name == names.logits)
        self._logits = np.zeros((self.plan.rows, 1, folder.vocab_size), _TYPES[logits.type])
        self._bindings: dict[tuple[int, int], Any] = {}
        self._rows: list[Sequence] = []
        self._reading: Sequence | None = None
        self._lengths = np.zeros(self.plan.rows, np.int64)
        self._next = np.zeros((self.plan.rows, 1), np.int64)
        self._samplers: dict[Sequence, Sampler] = {}
        self._positions = np.arange(self.plan.context_length, dtype=np.int64)
        self._run_lock = threading.Lock()
        self._running: onnxruntime.RunOptions | None = None

    @property
    def max_streams(self) -> int:
        """Rows of the buffer."""
        return self.plan.rows

    def prefill(self, sequence: Sequence) -> Drawn | None:
        """Read the next piece of the prompt; the first token once all is read."""
        if self._reading is not sequence:
            self._take_row(sequence)
        row = len(self._rows) - 1
        begin = int(self._lengths[row])
        prompt = sequence.task.prompt
        end = min(begin + self._prefill_tokens, len(prompt))
        piece = np.ascontiguousarray(prompt[begin:end], np.int64)[None]
        self._lengths[row] = end
        logits = self._run(piece, row, 1, None)
        if end < len(prompt):
            return None
        self._reading = None
        return self._draw(sequence, row, logits[0, -1])

    def decode(self, sequences: Items[Sequence]) -> list[Drawn | None]:
        """The next token of each of `sequences`, which are the first rows in any order."""
        count = len(sequences)
        self._lengths[:count] += 1
        logits = self._run(self._next[:count], 0, count, self._logits[:count])[:, -1]
        rows = {sequence: row for row, sequence in enumerate(self._rows[:count])}
        best = logits.argmax(axis=-1)
        drawn: list[Drawn | None] = []
        for sequence in sequences:
            row = rows[sequence]
            if self._samplers[sequence].is_plain and sequence.task.top_logprobs is None:
                token = int(best[row])
                self._next[row, 0] = token
                drawn.append(Drawn(token))
            else:
                drawn.append(self._draw(sequence, row, logits[row]))
        return drawn

    def release(self, sequence: Sequence) -> None:
        """Free the row; rows in use stay together, the one being read stays the last."""
        if self._samplers.pop(sequence, None) is None:
            return
        row = self._rows.index(sequence)
        last = len(self._rows) - 1
        if self._reading is sequence:
            self._reading = None
        elif self._reading is not None:
            self._move(last - 1, row)
            row = last - 1
        self._move(last, row)
        self._rows.pop()

    def interrupt(self) -> None:
        """Make the execution that reads a prompt end with an error."""
        with self._run_lock:
            if self._running is not None:
                self._running.terminate = True

    def close(self) -> None:
        """Free session and buffers."""
        self._bindings.clear()
        self._rows.clear()
        self._samplers.clear()
        del self._session, self._cache

    # -- rows ------------------------------------------------------------------------------------

    def _take_row(self, sequence: Sequence) -> None:
        task = sequence.task
        if len(task.prompt) + task.limit > self.plan.context_length + 1:
            raise ExecutionFailedError("the text does not fit the cache")  # the engine checks
        sampler = Sampler(task.choice, task.prompt)
        self._lengths[len(self._rows)] = 0
        self._samplers[sequence] = sampler
        self._rows.append(sequence)
        self._reading = sequence

    def _move(self, source: int, target: int) -> None:
        if source == target:
            return
        self._cache.move(source, target, int(self._lengths[source]))
        self._lengths[target] = self._lengths[source]
        self._next[target] = self._next[source]
        self._rows[target] = self._rows[source]

    def _draw(self, sequence: Sequence, row: int, logits: NDArray[np.generic]) -> Drawn:
        exact: Logits = logits.astype(np.float32, copy=False)
        token = self._samplers[sequence].choose(exact)
        self._next[row, 0] = token
        wanted = sequence.task.top_logprobs
        if wanted is None:
            return Drawn(token)
        return Drawn(token, score(exact, token, wanted, self._tokens))

    # -- executions ------------------------------------------------------------------------------

    def _run(
        self, ids: NDArray[np.int64], first: int, count: int, logits: NDArray[Any] | None
    ) -> NDArray[Any]:
        """Logits of `count` rows from `first`, shape (count, tokens, vocabulary).

        Args:
            ids: The tokens to read, shape (count, tokens); lengths include them already.
            first: Row.
            count: Of rows.
            logits: Where to write; None lets ONNX Runtime allocate.
        """
        names = self._names
        binding = self._binding(first, count)
        lengths = self._lengths[first : first + count, None]
        mask = (self._positions[: int(lengths.max())] < lengths).astype(np.int64)
        _bind_input(binding, names.ids, ids)
        _bind_input(binding, names.mask, mask)
        if self._has_positions:
            tokens = ids.shape[1]
            positions = lengths - tokens + self._positions[:tokens]
            _bind_input(binding, names.positions, positions)
        if logits is None:
            binding.bind_output(names.logits, "cpu")
        else:
            address = logits.ctypes.data
            binding.bind_output(names.logits, "cpu", 0, logits.dtype, logits.shape, address)
        options = onnxruntime.RunOptions()
        if logits is None:
            with self._run_lock:
                self._running = options
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as exc:
            if options.terminate:
                raise RequestCancelledError("the text is not wanted any more") from exc
            raise ExecutionFailedError(f"ONNX Runtime failed: {exc}") from exc
        finally:
            with self._run_lock:
                self._running = None
        return logits if logits is not None else binding.get_outputs()[-1].numpy()

    def _binding(self, first: int, count: int) -> Any:
        """Keys and values of `count` rows from `first`, as inputs and outputs; made once."""
        binding = self._bindings.get((first, count))
        if binding is None:
            binding = self._session.io_binding()
            for past, present in zip(self._names.past, self._names.present, strict=True):
                rows = self._cache.buffers[past][first : first + count]
                address = rows.ctypes.data
                binding.bind_input(past, "cpu", 0, rows.dtype, rows.shape, address)
                binding.bind_output(present, "cpu", 0, rows.dtype, rows.shape, address)
            self._bindings[first, count] = binding
        return binding

    @staticmethod
    def _plan(folder: GenAIFolder, options: BatchedOptions, item_bytes: int) -> CachePlan:
        wanted = min(options.context_length or folder.context_length, folder.context_length)
        if folder.family == "phi3":
            wanted = min(wanted, _PHI3_SHORT)
        token_bytes = 2 * folder.layers * folder.kv_heads * folder.head_size * item_bytes
        plan = plan_cache(options.max_streams, wanted, token_bytes, options.cache_bytes)
        if plan != CachePlan(options.max_streams, folder.context_length):
            _log.info(
                "%s: %d texts of %d tokens at a time", folder.path, plan.rows, plan.context_length
            )
        return plan


@dataclass(frozen=True, slots=True)
class _Names:
    """Of the graph's inputs and outputs."""

    ids: str
    mask: str
    positions: str
    logits: str
    past: tuple[str, ...]
    present: tuple[str, ...]

    @classmethod
    def of(cls, folder: GenAIFolder) -> _Names:
        inputs, outputs = folder.decoder.get("inputs", {}), folder.decoder.get("outputs", {})
        layers = range(folder.layers)

        def each(table: dict[str, str], key: str, value: str, stem: str) -> tuple[str, ...]:
            patterns = (table.get(key, f"{stem}.%d.key"), table.get(value, f"{stem}.%d.value"))
            return tuple(pattern % layer for layer in layers for pattern in patterns)

        return cls(
            inputs.get("input_ids", "input_ids"),
            inputs.get("attention_mask", "attention_mask"),
            inputs.get("position_ids", "position_ids"),
            outputs.get("logits", "logits"),
            each(inputs, "past_key_names", "past_value_names", "past_key_values"),
            each(outputs, "present_key_names", "present_value_names", "present"),
        )


def _make_session(folder: GenAIFolder, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Spinning threads would take the cores from the event loop and from other models.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            str(folder.graph), options, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:
        raise ModelInvalidError(f"{folder.graph} cannot be loaded: {exc}") from exc


def _bind_input(binding: Any, name: str, array: NDArray[Any]) -> None:
    # Keeps no reference: the array has to outlive the execution, and does.
    binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
