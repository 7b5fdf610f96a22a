"""Tokens per second and time to the first token of the embedded engine, by streams in parallel.

    .venv/bin/python tests/bench/bench_llm_engine.py [--model DIR] [--streams 1,2,4,8] [--sampled]

Continuous batching is compared with GenAI's own generators on the same folder. Each figure is the
median of several rounds. Cancelling is measured from closing the stream to the free slot.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "components")]

from fakes.llm_folders import TINY_DOCS, make_embedded  # noqa: E402
from gpu_backend.llm.embedded import EmbeddedEngine  # noqa: E402
from gpu_backend.llm.engine import GenerateRequest, Prompt, Sampling  # noqa: E402
from gpu_backend.llm.manifest import GenerationLimits  # noqa: E402

PROMPT = "def "
"""Its greedy text does not end by itself, so that every stream is as long as it was asked to be:
with texts of unequal length the batch would not be full, and the figure would be about that."""


@dataclass(frozen=True)
class Round:
    """One round of several streams.

    Attributes:
        tokens_per_s: Of all streams together.
        first_token_s: Median over the streams.
    """

    tokens_per_s: float
    first_token_s: float


async def one_stream(
    engine: EmbeddedEngine, tokens: int, seed: int, temperature: float
) -> tuple[int, float]:
    """Generated tokens, and seconds to the first of them."""
    started = perf_counter()
    first_s = 0.0
    sampling = Sampling(temperature=temperature, top_k=0, seed=seed)
    request = GenerateRequest(Prompt(PROMPT), sampling, max_tokens=tokens)
    count = 0
    async for chunk in engine.generate("bench", request):
        first_s = first_s or perf_counter() - started
        if chunk.finish is not None:
            count = chunk.finish.usage.completion_tokens
    return count, first_s


async def one_round(engine: EmbeddedEngine, streams: int, tokens: int, temperature: float) -> Round:
    """`streams` texts at the same time."""
    started = perf_counter()
    done = await asyncio.gather(
        *(one_stream(engine, tokens, seed, temperature) for seed in range(streams))
    )
    seconds = perf_counter() - started
    total = sum(count for count, _ in done)
    return Round(total / seconds, statistics.median(first_s for _, first_s in done))


async def cancel_s(engine: EmbeddedEngine, kind: str) -> float:
    """Seconds from closing a stream until its slot is free."""
    request = GenerateRequest(Prompt(PROMPT), Sampling(temperature=1.5, seed=1), max_tokens=400)
    async with aclosing(engine.generate("bench", request)) as stream:
        await anext(stream)
        started = perf_counter()
    while engine._loops[kind].active:  # noqa: ASYNC110  # another thread frees it
        await asyncio.sleep(0)
    return perf_counter() - started


async def measure(
    model: Path, streams: list[int], tokens: int, rounds: int, temperature: float
) -> None:
    """Print a table per decoder."""
    for kind in ("batched", "genai"):
        engine = make_embedded(model, GenerationLimits(engine=kind, max_streams=max(streams)))
        await one_round(engine, max(streams), 20, temperature)
        print(f"\n{kind}: {model}\n  streams  tokens/s  times one  first token ms")
        base = 0.0
        for count in streams:
            found = [await one_round(engine, count, tokens, temperature) for _ in range(rounds)]
            speed = statistics.median(r.tokens_per_s for r in found)
            first_ms = statistics.median(r.first_token_s for r in found) * 1e3
            base = base or speed
            print(f"  {count:7d}  {speed:8.0f}  {speed / base:9.2f}  {first_ms:14.1f}")
        times_ms = sorted([1e3 * await cancel_s(engine, kind) for _ in range(30)])
        print(f"  cancel: median {statistics.median(times_ms):.2f} ms, worst {times_ms[-1]:.2f} ms")
        await engine.close()


def main() -> int:
    """Entry of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=TINY_DOCS)
    parser.add_argument("--streams", default="1,2,4,8")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sampled", action="store_true", help="at temperature 1.5: lengths differ")
    options = parser.parse_args()
    streams = [int(part) for part in options.streams.split(",")]
    asyncio.run(
        measure(
            options.model, streams, options.tokens, options.rounds, 1.5 if options.sampled else 0.0
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
