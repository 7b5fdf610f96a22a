"""Every language model of the backend, by name: what the protocols call.

Models are found when the backend starts and when their folders change; they are loaded when they
are first asked for. Around every generation stand the same rules whatever the engine: a bounded
number of requests, a deadline, an end that is told, and an account of the tokens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from gpu_backend.errors import (
    BackendError,
    DeadlineExceededError,
    ExecutionFailedError,
    InvalidInputError,
    ModelNotFoundError,
    ModelNotReadyError,
    RequestCancelledError,
)
from gpu_backend.llm.engine import (
    Capabilities,
    Chunk,
    Chunks,
    Embeddings,
    Engine,
    GenerateRequest,
    ModelCard,
)
from gpu_backend.llm.folder_model import make_engine
from gpu_backend.llm.gate import Gate
from gpu_backend.llm.manifest import (
    LanguageManifest,
    is_language_model,
    read_language_manifest,
)
from gpu_backend.llm.model_list import ModelList
from gpu_backend.llm.stats import GenerationStats
from gpu_backend.repository.files import Fingerprint, ModelFolder

__all__ = ["LanguageModels", "Served"]

_log = logging.getLogger(__name__)

_LATEST = ":latest"


@dataclass(eq=False)
class Served:
    """One manifest with its engine."""

    manifest: LanguageManifest
    engine: Engine
    gate: Gate
    stats: GenerationStats = field(default_factory=GenerationStats)
    listed: ModelList | None = None
    """Of another server; None where the engine is our own."""

    @property
    def name(self) -> str:
        """Of the manifest."""
        return self.manifest.name

    @property
    def is_server(self) -> bool:
        """It stands for every model of another server, not for one of its own name."""
        upstream = self.manifest.upstream
        return upstream is not None and upstream.model is None


class LanguageModels:
    """Models by name. `start` first, `close` last.

    Args:
        roots: Folders that hold models.
        threads: Inside one operator, where a manifest says nothing; 0 leaves it to the runtime.
        make: An engine of a manifest; for tests.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        threads: int,
        make: Callable[[LanguageManifest, int], Engine] = make_engine,
    ) -> None:
        self._roots = tuple(roots)
        self._threads = threads
        self._make = make
        self._served: dict[str, Served] = {}
        self._faults: dict[str, str] = {}
        self._seen: dict[str, Fingerprint] = {}
        self._taken: dict[str, Fingerprint] = {}

    # -- asking ----------------------------------------------------------------------------------

    def served(self) -> list[Served]:
        """Every manifest that can be served, by name."""
        return [self._served[name] for name in sorted(self._served)]

    def faults(self) -> list[str]:
        """Why other folders are not served."""
        return [f"model {name}: {fault}" for name, fault in sorted(self._faults.items())]

    async def cards(self) -> list[ModelCard]:
        """Every model; those of a server that does not answer are left out."""
        lists = await asyncio.gather(*(self._cards_of(served) for served in self.served()))
        found: dict[str, ModelCard] = {}
        for card in (card for cards in lists for card in cards):
            found.setdefault(card.name, card)
        return list(found.values())

    async def card(self, name: str) -> ModelCard:
        """The model `name`.

        Raises:
            ModelNotFoundError: There is none.
            UpstreamUnavailableError: Its server cannot be asked.
        """
        return (await self._find(name))[1]

    async def _find(self, name: str) -> tuple[Served, ModelCard]:
        plain = name.removesuffix(_LATEST)
        own = self._served.get(plain)
        if own is not None and not own.is_server:
            # A server behind an alias is not asked first: the request itself will tell.
            cards = await own.engine.cards() if own.listed is None else own.listed.known
            return own, cards[0] if cards else _plain_card(own)
        servers = [served for served in self.served() if served.is_server]
        names = (name, plain, plain + _LATEST)
        # What is known is believed while it is renewed: a server that is down, or slow to list its
        # models, holds up no request for another's. One that is believed wrongly says so itself.
        known = [(each, each.listed.known) for each in servers if each.listed is not None]
        found = _first(known, names)
        if found is not None:
            assert found[0].listed is not None
            found[0].listed.refresh()
            return found
        lists = await asyncio.gather(*map(self._listed, servers), return_exceptions=True)
        fresh = [
            (each, cards)
            for each, cards in zip(servers, lists, strict=True)
            if not isinstance(cards, BaseException)
        ]
        found = _first(fresh, names)
        if found is not None:
            return found
        for failure in lists:
            if isinstance(failure, BaseException):
                raise failure
        if plain in self._faults:
            raise ModelNotReadyError(f"model {plain!r} cannot serve: {self._faults[plain]}")
        raise ModelNotFoundError(f"no language model {name!r}; GET /v1/models lists them")

    async def _cards_of(self, served: Served) -> Sequence[ModelCard]:
        try:
            return await self._listed(served)
        except BackendError as exc:
            _log.warning("models of %s are not listed: %s", served.name, exc.message)
            return ()

    @staticmethod
    async def _listed(served: Served) -> Sequence[ModelCard]:
        if served.listed is None:
            return await served.engine.cards()
        return await served.listed.fresh()

    # -- generating ------------------------------------------------------------------------------

    @asynccontextmanager
    async def generate(
        self, name: str, request: GenerateRequest, deadline: float | None = None
    ) -> AsyncIterator[tuple[ModelCard, Chunks]]:
        """The model that answers, and the text as it comes; leaving the context cancels it.

        Args:
            name: Of the model.
            request: What is wanted.
            deadline: `perf_counter` time after which the answer is worthless.

        Raises:
            ModelNotFoundError: There is no such model.
            InvalidInputError: It cannot do what is asked.
            OverloadedError: It is full.
            DeadlineExceededError: The deadline has passed.
            BackendError: As `Engine.generate` raises, also while chunks are read.
        """
        served, card = await self._find(name)
        _check(card, request)
        started = perf_counter()
        outcome = RequestCancelledError.code
        run = _Run(served, card.name, request, started, deadline)
        try:
            with served.gate.permit():
                async with aclosing(run.chunks()) as stream:
                    yield card, stream
            if run.is_complete:
                outcome = "ok"
        except BackendError as exc:
            outcome = exc.code
            raise
        finally:
            served.stats.ended(outcome, perf_counter() - started)

    async def embed(
        self, name: str, texts: Sequence[str], dimensions: int | None, deadline: float | None
    ) -> tuple[ModelCard, Embeddings]:
        """The model that answers, and a vector per text.

        Raises:
            BackendError: As `generate` raises.
        """
        served, card = await self._find(name)
        if not card.capabilities.embeddings:
            raise InvalidInputError(f"model {name!r} makes no embeddings", param="model")
        started = perf_counter()
        limit_s = served.manifest.limits.max_wait_s
        if deadline is not None:
            limit_s = min(limit_s, deadline - started)
        outcome = RequestCancelledError.code
        try:
            with served.gate.permit():
                async with asyncio.timeout(limit_s):
                    made = await served.engine.embed(card.name, texts, dimensions)
            outcome = "ok"
            served.stats.prompt_tokens += made.prompt_tokens
            return card, made
        except TimeoutError as exc:
            outcome = DeadlineExceededError.code
            raise DeadlineExceededError("the embeddings were not ready in time") from exc
        except BackendError as exc:
            outcome = exc.code
            raise
        finally:
            served.stats.ended(outcome, perf_counter() - started)

    async def load(self, name: str) -> ModelCard:
        """Bring `name` into memory, where it is ours to bring.

        Raises:
            ModelNotFoundError: There is no such model.
            ModelNotReadyError: It cannot be loaded.
        """
        served, card = await self._find(name)
        await served.engine.load()
        return card

    async def unload(self, name: str) -> ModelCard:
        """Free the memory of `name` until its next request.

        Raises:
            ModelNotFoundError: There is no such model.
        """
        served, card = await self._find(name)
        await served.engine.unload()
        return card

    # -- following the folders -------------------------------------------------------------------

    async def start(self) -> None:
        """Find the models; what cannot be served is told in the log and in `faults`."""
        for name, path in (await asyncio.to_thread(self._look)).items():
            await self._put(name, path)

    async def poll(self) -> None:
        """Follow what changed on disk; files are taken once two polls saw them alike."""
        found = await asyncio.to_thread(self._look)
        for name in [name for name in (*self._served, *self._faults) if name not in found]:
            self._faults.pop(name, None)
            await self._drop(name)
        for name, path in found.items():
            fingerprint = await asyncio.to_thread(_fingerprint, path)
            known = self._served.get(name)
            settled = self._seen.get(name) == fingerprint
            self._seen[name] = fingerprint
            if settled and self._taken.get(name) != fingerprint:
                await self._put(name, path)
                _log.info("model %s %s", name, "is new" if known is None else "has changed")

    async def close(self) -> None:
        """End every engine."""
        for served in self.served():
            await self._drop(served.name)

    def _look(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in _folders(self._roots):
            if is_language_model(path):
                found.setdefault(path.name, path)
        return found

    async def _put(self, name: str, path: Path) -> None:
        self._taken[name] = await asyncio.to_thread(_fingerprint, path)
        try:
            manifest = await asyncio.to_thread(read_language_manifest, path)
            engine = await asyncio.to_thread(self._make, manifest, self._threads)
        except BackendError as exc:
            self._faults[name] = exc.message
            _log.error("model %s is not served: %s", name, exc.message)
            return
        old = self._served.get(name)
        self._faults.pop(name, None)
        limits = manifest.limits
        listed = None if manifest.upstream is None else ModelList(name, engine.cards)
        gate = Gate(name, limits.max_streams, limits.max_queue)
        served = Served(manifest, engine, gate, listed=listed)
        if old is not None:
            served.stats = old.stats
        self._served[name] = served
        if old is not None:
            await _close(old)

    async def _drop(self, name: str) -> None:
        self._taken.pop(name, None)
        served = self._served.pop(name, None)
        if served is not None:
            await _close(served)


class _Run:
    """One generation: the engine's stream, held to its contract and to its time."""

    def __init__(
        self,
        served: Served,
        name: str,
        request: GenerateRequest,
        started: float,
        deadline: float | None,
    ) -> None:
        limits = served.manifest.limits
        end = started + limits.max_duration_s
        self._end = end if deadline is None else min(end, deadline)
        self._first_by = min(self._end, started + limits.max_wait_s)
        self._served = served
        self._name = name
        self._request = request
        self._started = started
        self.is_complete = False

    async def chunks(self) -> Chunks:
        """Every chunk, the last one with `finish`."""
        served, first_at = self._served, 0.0
        async with aclosing(served.engine.generate(self._name, self._request)) as stream:
            while not self.is_complete:
                chunk = await _next(stream, self._end if first_at else self._first_by)
                now = perf_counter()
                if not first_at:
                    first_at = now
                    served.stats.first_token_s.observe(now - self._started)
                if chunk.finish is not None:
                    served.stats.used(chunk.finish.usage)
                    served.gate.observe(now - first_at)
                    self.is_complete = True
                yield chunk


async def _next(stream: Chunks, until: float) -> Chunk:
    """The next chunk.

    Raises:
        DeadlineExceededError: It does not come until then.
        ExecutionFailedError: The engine broke its contract, or failed in a way it should not.
    """
    try:
        async with asyncio.timeout(until - perf_counter()):
            return await anext(stream)
    except TimeoutError as exc:
        raise DeadlineExceededError("the generation did not get so far in time") from exc
    except StopAsyncIteration as exc:
        raise ExecutionFailedError("the engine stopped without an end") from exc
    except (BackendError, asyncio.CancelledError):
        raise
    except Exception as exc:
        _log.exception("an engine failed")
        raise ExecutionFailedError(f"the engine failed: {exc}") from exc


def _check(card: ModelCard, request: GenerateRequest) -> None:
    """Nothing when the model can do what is asked.

    Raises:
        InvalidInputError: It cannot.
    """
    can: Capabilities = card.capabilities
    content = request.input
    images = any(m.images for m in content) if isinstance(content, tuple) else content.images
    if images and not can.images:
        raise InvalidInputError(f"model {card.name!r} takes no images", param="messages")
    if request.tools and not can.tools and request.tool_choice != "none":
        raise InvalidInputError(f"model {card.name!r} does not support tools", param="tools")
    if request.top_logprobs is not None and not can.logprobs:
        raise InvalidInputError(f"model {card.name!r} tells no logprobs", param="logprobs")
    form = request.format
    if form is not None and form.kind not in can.formats:
        known = ", ".join(sorted(can.formats)) or "none"
        raise InvalidInputError(
            f"model {card.name!r} cannot be held to {form.kind!r}; it knows {known}",
            param="response_format",
        )


def _first(
    lists: Sequence[tuple[Served, Sequence[ModelCard]]], names: Sequence[str]
) -> tuple[Served, ModelCard] | None:
    """The first model of one of `names`, in the order of the manifests."""
    for served, cards in lists:
        for card in cards:
            if card.name in names:
                return served, card
    return None


async def _close(served: Served) -> None:
    if served.listed is not None:
        await served.listed.close()
    await served.engine.close()


def _folders(roots: Sequence[Path]) -> Iterator[Path]:
    for root in roots:
        if root.is_dir():
            yield from sorted(path for path in root.iterdir() if path.is_dir())


def _fingerprint(path: Path) -> Fingerprint:
    return ModelFolder(path.name, path, ()).fingerprint()


def _plain_card(served: Served) -> ModelCard:
    return ModelCard(served.name, served.manifest.platform, capabilities=served.engine.capabilities)
