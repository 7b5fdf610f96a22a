"""Text from ONNX Runtime in this process: loaded when first asked for, then kept.

A folder on CPU is batched continuously (`batched`) where its graph allows that, one that was built
for paged attention by GenAI's engine (`paged`), and every other by GenAI's generators (`genai`). A
text that a grammar constrains needs GenAI, which has the grammar; beside `batched`, its copy of the
model is loaded when the first such text comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import perf_counter

from gpu_backend.errors import InvalidInputError, ModelInvalidError, ModelNotReadyError
from gpu_backend.llm.batched import BatchedDecoder, BatchedOptions, why_not_batched
from gpu_backend.llm.decode_loop import DecodeLoop
from gpu_backend.llm.engine import (
    Capabilities,
    Chunks,
    Embeddings,
    GenerateRequest,
    ModelCard,
)
from gpu_backend.llm.genai import GUIDANCE, GenAIDecoder
from gpu_backend.llm.genai_folder import GenAIFolder
from gpu_backend.llm.generation_thread import GenerationThread
from gpu_backend.llm.manifest import GenerationLimits
from gpu_backend.llm.paged import EngineLoop, PagedDecoder
from gpu_backend.llm.sampling import resolve
from gpu_backend.llm.sequence import Sequence as Text
from gpu_backend.llm.sequence import Task
from gpu_backend.llm.tokenizer import FolderTokenizer, TokenIds

__all__ = ["EmbeddedEngine"]

_log = logging.getLogger(__name__)

_ENCODE_ON_LOOP = 8192
"""Characters; a longer prompt is encoded on a thread, at about a microsecond per character."""


class EmbeddedEngine:
    """One folder.

    Args:
        card: Of the model.
        folder: Its files.
        limits: Bounds.
        threads: Inside one operator, where the limits say nothing.
        verify: Runs before loading, on a thread; raises when the files are not to be served.
    """

    def __init__(
        self,
        card: ModelCard,
        folder: GenAIFolder,
        limits: GenerationLimits,
        *,
        threads: int = 0,
        verify: Callable[[], None] = lambda: None,
    ) -> None:
        self._card = card
        self._folder = folder
        self._limits = limits
        self._threads = limits.intra_op_threads or threads
        self._verify = verify
        self._lock = asyncio.Lock()
        self._tokenizer: FolderTokenizer | None = None
        self._loops: dict[str, GenerationThread] = {}
        self._loading: dict[str, asyncio.Task[GenerationThread]] = {}
        self._context_length = folder.context_length
        self._idle: asyncio.TimerHandle | None = None
        self._running = 0
        self._is_closed = False

    @property
    def is_loaded(self) -> bool:
        """The model is in memory."""
        return bool(self._loops)

    @property
    def capabilities(self) -> Capabilities:
        """As its card says."""
        return self._card.capabilities

    @property
    def kind(self) -> str:
        """The decoder for texts without a grammar: ``batched``, ``genai`` or ``paged``."""
        wanted, folder = self._limits.engine, self._folder
        if wanted != "auto":
            return wanted
        if folder.paged:
            return "paged"
        return "genai" if folder.provider != "cpu" or why_not_batched(folder) else "batched"

    async def generate(self, model: str, request: GenerateRequest) -> Chunks:  # noqa: ARG002
        """The text, chunk by chunk."""
        self._check(request)
        started = perf_counter()
        self._running += 1
        self._stay()
        try:
            tokenizer, loop = await self._load(self._kind_for(request))
            load_s = perf_counter() - started
            task = await self._task(tokenizer, request)
            text = Text(task, tokenizer.decoder(), load_s)
            loop.submit(text)
            try:
                while True:
                    chunk = await text.outlet.get()
                    yield chunk
                    if chunk.finish is not None:
                        return
            finally:
                loop.cancel(text)
        finally:
            self._running -= 1
            self._leave_when_idle()

    async def embed(self, model: str, texts: Sequence[str], dimensions: int | None) -> Embeddings:  # noqa: ARG002
        """Nothing: a decoder's states are no embeddings."""
        raise InvalidInputError(f"model {model!r} makes no embeddings", param="model")

    async def cards(self) -> Sequence[ModelCard]:
        """The one model."""
        return (self._card,)

    async def load(self) -> None:
        """Bring the model into memory."""
        await self._load(self.kind)

    async def unload(self) -> None:
        """Free the memory; texts on their way end with an error."""
        async with self._lock:
            loops, self._loops = list(self._loops.values()), {}
            for loop in loops:
                await loop.close()
        if loops:
            _log.info("model %s is unloaded", self._card.name)

    async def close(self) -> None:
        """End everything."""
        self._is_closed = True
        self._stay()
        await self.unload()

    # -- loading ---------------------------------------------------------------------------------

    async def _load(self, kind: str) -> tuple[FolderTokenizer, GenerationThread]:
        """Tokenizer and loop of `kind`, loaded by whoever comes first.

        Raises:
            ModelNotReadyError: The files cannot be used.
        """
        loop = self._loops.get(kind)
        if loop is None or not loop.is_alive:
            # Who waits may leave, or run out of time: the load goes on for the next.
            loop = await asyncio.shield(self._loading_of(kind))
        assert self._tokenizer is not None
        return self._tokenizer, loop

    def _loading_of(self, kind: str) -> asyncio.Task[GenerationThread]:
        task = self._loading.get(kind)
        if task is None:
            task = self._loading[kind] = asyncio.create_task(self._make_once(kind))
            task.add_done_callback(lambda done: self._loaded(kind, done))
        return task

    def _loaded(self, kind: str, done: asyncio.Task[GenerationThread]) -> None:
        del self._loading[kind]
        if not done.cancelled() and done.exception() is not None:
            _log.error("model %s is not loaded: %s", self._card.name, done.exception())

    async def _make_once(self, kind: str) -> GenerationThread:
        async with self._lock:  # one copy at a time: memory is what is short
            if self._is_closed:
                raise ModelNotReadyError(f"model {self._card.name!r} was replaced or removed")
            loop = self._loops[kind] = await self._make_loop(kind)
            return loop

    async def _make_loop(self, kind: str) -> GenerationThread:
        started = perf_counter()
        try:
            if self._tokenizer is None:
                await asyncio.to_thread(self._verify)
                self._tokenizer = await asyncio.to_thread(FolderTokenizer, self._folder)
            loop = await self._start(kind, self._tokenizer)
        except ModelInvalidError as exc:
            raise ModelNotReadyError(
                f"model {self._card.name!r} cannot serve: {exc.message}"
            ) from exc
        _log.info(
            "model %s is loaded (%s) after %.2f s", self._card.name, kind, perf_counter() - started
        )
        return loop

    async def _start(self, kind: str, tokenizer: FolderTokenizer) -> GenerationThread:
        running, name = asyncio.get_running_loop(), f"{self._card.name}-{kind}"
        if kind == "paged":
            return await self._start_paged(running, name)
        if kind == "batched":
            batched = await asyncio.to_thread(self._make_batched, tokenizer)
            self._context_length = batched.plan.context_length
            return DecodeLoop(batched, running, name)
        streams = self._limits.max_streams
        single = await asyncio.to_thread(GenAIDecoder, self._folder, tokenizer.tokens, streams)
        return DecodeLoop(single, running, name)

    async def _start_paged(self, running: asyncio.AbstractEventLoop, name: str) -> EngineLoop:
        if not self._folder.paged:
            raise ModelInvalidError(
                'engine = "paged" is not possible: the folder is not built for paged attention'
            )
        paged = PagedDecoder(self._folder, self._limits.max_streams)
        loop = EngineLoop(paged, running, name)
        await loop.opened()
        self._context_length = paged.context_length
        return loop

    def _make_batched(self, tokenizer: FolderTokenizer) -> BatchedDecoder:
        reason = why_not_batched(self._folder)
        if reason:
            raise ModelInvalidError(f'engine = "batched" is not possible: {reason}')
        limits = self._limits
        options = BatchedOptions(
            max_streams=limits.max_streams,
            context_length=limits.context_length,
            cache_bytes=limits.cache_mb << 20,
            prefill_tokens=limits.prefill_tokens,
            intra_op_threads=self._threads,
        )
        return BatchedDecoder(self._folder, tokenizer.tokens, options)

    def _kind_for(self, request: GenerateRequest) -> str:
        """The decoder for `request`: plain batching knows no grammar."""
        kind = self.kind
        return "genai" if kind == "batched" and request.format is not None else kind

    # -- one request -----------------------------------------------------------------------------

    def _check(self, request: GenerateRequest) -> None:
        name = self._card.name
        if request.tools and request.tool_choice != "none":
            raise InvalidInputError(f"model {name!r} does not support tools", param="tools")
        form = request.format
        if form is not None and form.kind not in GUIDANCE:
            raise InvalidInputError(f"format {form.kind!r} is not known", param="response_format")
        kind = self._kind_for(request)
        if kind == "batched":
            return
        if kind == "paged" and request.top_logprobs is not None:
            raise InvalidInputError(f"model {name!r} tells no logprobs", param="logprobs")
        for option in ("presence_penalty", "frequency_penalty", "logit_bias", "min_p"):
            if getattr(request.sampling, option):
                where = "with response_format" if self.kind == "batched" else f"by model {name!r}"
                raise InvalidInputError(
                    f"{option} is not supported {where}: GenAI draws the tokens there and has "
                    "nothing like it",
                    param=option,
                )

    async def _task(self, tokenizer: FolderTokenizer, request: GenerateRequest) -> Task:
        prompt = await self._encode(tokenizer, request)
        bound = self._limits.context_length or self._context_length
        context = min(bound, self._context_length)
        room = context - len(prompt)
        if room < 1:
            raise InvalidInputError(
                f"the prompt has {len(prompt)} tokens, the model's context {context}; "
                "shorten the prompt",
                param="messages",
            )
        limit = min(request.max_tokens or self._limits.max_output_tokens, room)
        return Task(
            prompt=prompt,
            limit=min(limit, self._limits.max_output_tokens),
            choice=resolve(request.sampling, self._folder),
            eos_tokens=self._folder.eos_tokens,
            stops=request.stop,
            top_logprobs=request.top_logprobs,
            format=request.format,
        )

    @staticmethod
    async def _encode(tokenizer: FolderTokenizer, request: GenerateRequest) -> TokenIds:
        content = request.input
        size = (
            sum(len(message.content) for message in content)
            if isinstance(content, tuple)
            else len(content.text)
        )
        if size <= _ENCODE_ON_LOOP:
            return tokenizer.encode_input(content)
        return await asyncio.to_thread(tokenizer.encode_input, content)

    # -- leaving memory --------------------------------------------------------------------------

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _leave_when_idle(self) -> None:
        if self._running or not self._limits.idle_unload_s:
            return
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._limits.idle_unload_s, self._unload_soon)

    def _unload_soon(self) -> None:
        self._idle = None
        if not self._running:
            task = asyncio.ensure_future(self.unload())
            task.add_done_callback(lambda done: done.exception())
