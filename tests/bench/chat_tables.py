"""Tables and plots of the chat benchmark, from what `bench_chat.py` measured.

    .venv/bin/python tests/bench/chat_tables.py docs/benchmarks      draw again from chat.json

The prose of `chat.md` is written by hand; what lies between its markers is replaced.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from bench.chart import bar_chart  # noqa: E402
from bench.results import write_measured  # noqa: E402

__all__ = ["render", "report"]

Row = dict[str, Any]

FLAT = 0.02
"""Growth that counts as none: the allocator's and the interpreter's own."""


def render(result: dict[str, Any], folder: Path) -> None:
    """Write the plots, and the tables between the markers of `chat.md`."""
    for file, title, rows, key in (
        ("chat-first-token.svg", "Time to the first token, paced", result["paced"], "first"),
        ("chat-whole.svg", "A call that is not streamed", result["whole"], "whole"),
    ):
        groups = [
            f"{parallel} × {rank}" for parallel in _parallels(rows) for rank in ("p50", "p99")
        ]
        series: dict[str, list[float | None]] = {
            system: [
                _median(rows, system, parallel, key, f"{rank}_ms")
                for parallel in _parallels(rows)
                for rank in ("p50", "p99")
            ]
            for system in _systems(rows)
        }
        (folder / file).write_text(bar_chart(title, "ms, log", groups, series), encoding="utf-8")
    write_measured(folder / "chat.md", "# Chat through the edge", report(result))


def report(result: dict[str, Any]) -> str:
    """Everything that was measured, as Markdown."""
    plan = result["plan"]
    peer = f" Peer: {result['peer']}." if result["peer"] else ""
    conditions = (
        f"{result['date']}, {result['machine']}.{peer} {plan['rounds']} rounds. Load average of "
        f"the machine before and after: {result['load_average_before']:.1f}, "
        f"{result['load_average_after']:.1f}."
    )
    lines = [
        conditions,
        "",
        "### Targets",
        "",
        *_targets(result),
        "",
        f"### Streams by the clock: {plan['words']} words, one every 20 ms",
        "",
        *_stream_table(result["paced"]),
        "",
        "![Time to the first token](chat-first-token.svg)",
        "",
        "### Calls that are not streamed and answered at once",
        "",
        *_whole_table(result["whole"]),
        "",
        "![A call that is not streamed](chat-whole.svg)",
        "",
        "### Identical calls at once, of a model that takes 200 ms",
        "",
        *_identical_table(result["identical"]),
        "",
        f"### Streams of the backend: tiny-docs, {plan['tokens']} tokens, as fast as it generates",
        "",
        *_stream_table(result["backend"]),
        "",
        "### What stays",
        "",
        *_memory(result["memory"]),
        *_cancelled(result["cancelled"]),
        "",
    ]
    return "\n".join(lines)


# -- targets -------------------------------------------------------------------------------------


def _targets(result: dict[str, Any]) -> list[str]:
    paced, whole, backend = result["paced"], result["whole"], result["backend"]
    first = _added(paced, "edge", 1, "first", "p50_ms")
    longer = _ratio(paced, "edge", 1, "whole", "p50_ms") - 1
    memory, cancelled = result["memory"], result["cancelled"]
    left_ms = result["left"]["p99_ms"]
    times = _times_one(backend, 8)
    peaks = memory["peaks_mib"]
    growth = peaks[-1] - peaks[len(peaks) // 2 - 1]
    left = cancelled["after"]["files"] - cancelled["before"]["files"]
    resident = cancelled["resident_mib"]
    more = resident[-1] - resident[len(resident) // 2 - 1]
    rows = [
        ("edge adds to the first token, p50", "≤ 5 ms", f"{first:.2f} ms", first <= 5),
        ("edge adds to the stream, p50", "≤ 3 %", f"{longer:.1%}", longer <= 0.03),
        (
            (f"{memory['streams']} parallel streams, failed; peak memory of the last wave less "
            "that of the middle one"),
            "0; ≤ 2 %",
            f"{memory['failed']}; {growth / peaks[-1]:+.1%}",
            not memory["failed"] and growth <= FLAT * peaks[-1],
        ),
        (
            (f"{cancelled['count']:,} cancelled streams: generations and files left open; memory "
            "after the last tenth less that after the fifth"),
            "0, 0; ≤ 2 %",
            f"{cancelled['running_after']}, {max(0, left):.0f}; {more / resident[-1]:+.1%}",
            not cancelled["running_after"] and left <= 0 and more <= FLAT * resident[-1],
        ),
        (
            f"a client leaves, the upstream stops, p99 of {result['left']['n']}",
            "≤ 100 ms",
            f"{left_ms:.1f} ms",
            left_ms <= 100,
        ),
        ("8 streams of the backend, times the tokens/s of one", "≥ 2.5", f"{times:.2f}",
         times >= 2.5),
    ]  # fmt: skip
    if "litellm" in _systems(whole):
        for parallel in _parallels(whole):
            for rank in ("p50_ms", "p99_ms"):
                ours = _added(whole, "edge", parallel, "whole", rank)
                theirs = _added(whole, "litellm", parallel, "whole", rank)
                name = f"overhead at {_connections(parallel)}, {rank[:3]}, beside LiteLLM's"
                rows.append((name, f"< {theirs:.1f} ms", f"{ours:.1f} ms", ours < theirs))
    lines = ["| | Target | Measured | |", "|---|---|---|---|"]
    return lines + [f"| {a} | {b} | {c} | {'met' if met else 'missed'} |" for a, b, c, met in rows]


# -- tables --------------------------------------------------------------------------------------


def _stream_table(rows: Sequence[Row]) -> list[str]:
    lines = [
        (
            "| Streams | System | n | First token p50, p95, p99 ms | Added p50 ms | "
            "Whole p50, p95, p99 ms | Added p50 | Tokens/s | Failed |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for parallel, system in _cells(rows):
        added, ratio = "", ""
        if system != "direct":
            added = f"{_added(rows, system, parallel, 'first', 'p50_ms'):+.2f}"
            ratio = f"{_ratio(rows, system, parallel, 'whole', 'p50_ms') - 1:+.1%}"
        lines.append(
            f"| {parallel} | {system} | {_count(rows, system, parallel)} "
            f"| {_ranks(rows, system, parallel, 'first')} | {added} "
            f"| {_ranks(rows, system, parallel, 'whole')} | {ratio} "
            f"| {_rate(rows, system, parallel):,.0f} | {_failed(rows, system, parallel)} |"
        )
    return lines


def _whole_table(rows: Sequence[Row]) -> list[str]:
    lines = [
        (
            "| Connections | System | n | p50, p95, p99 ms | Added p50 ms | Added p99 ms | "
            "Calls/s | Failed |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for parallel, system in _cells(rows):
        own = [r for r in rows if r["system"] == system and r["parallel"] == parallel]
        added = ["", ""]
        if system != "direct":
            added = [
                f"{_added(rows, system, parallel, 'whole', rank):+.2f}"
                for rank in ("p50_ms", "p99_ms")
            ]
        rate = statistics.median(row["calls_per_s"] for row in own)
        lines.append(
            f"| {parallel} | {system} | {_count(rows, system, parallel)} "
            f"| {_ranks(rows, system, parallel, 'whole')} | {added[0]} | {added[1]} "
            f"| {rate:,.0f} | {_failed(rows, system, parallel)} |"
        )
    return lines


def _identical_table(rows: Sequence[Row]) -> list[str]:
    lines = ["| System | Calls | Reached the model | p50, p95, p99 ms | Failed |",
             "|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        ranks = _ranks(rows, row["system"], row["parallel"], "whole")
        lines.append(
            f"| {row['system']} | {row['parallel']} | {row['upstream_calls']} | {ranks} "
            f"| {row['failed']} |"
        )
    return lines


def _memory(memory: dict[str, Any]) -> list[str]:
    peaks = ", ".join(f"{peak:.1f}" for peak in memory["peaks_mib"])
    return [
        (
            f"Edge host, {memory['streams']} streams at a time: {memory['before_mib']:.1f} MiB "
            f"before, peaks of the waves {peaks} MiB; {memory['failed']} failed."
        ),
        "",
    ]


def _cancelled(found: dict[str, Any]) -> list[str]:
    before, after = found["before"], found["after"]
    resident = ", ".join(f"{mib:.0f}" for mib in (before["resident_mib"], *found["resident_mib"]))
    return [
        (
            f"{found['count']:,} streams left by their clients ({found['per_s']:.0f} per second; a "
            "quarter each once sent, at the head, at the first text, after four pieces of it): "
            f"{found['settled_s'] * 1e3:.0f} ms later the backend ran {found['running_after']} "
            f"generations; the edge host had {after['files']:.0f} open files "
            f"({before['files']:.0f} before), {after['threads']:.0f} threads "
            f"({before['threads']:.0f}). Memory before, and after each tenth: "
            f"{resident} MiB."
        ),
    ]


# -- figures -------------------------------------------------------------------------------------


def _systems(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["system"] for row in sorted(rows, key=_order)))


def _order(row: Row) -> int:
    return ("direct", "edge", "litellm").index(row["system"])


def _parallels(rows: Sequence[Row]) -> list[int]:
    return sorted({row["parallel"] for row in rows})


def _cells(rows: Sequence[Row]) -> list[tuple[int, str]]:
    return [(parallel, system) for parallel in _parallels(rows) for system in _systems(rows)]


def _values(rows: Sequence[Row], system: str, parallel: int, key: str, rank: str) -> dict[int, Any]:
    """By round."""
    own = [row for row in rows if row["system"] == system and row["parallel"] == parallel]
    return {row["round"]: row[key][rank] for row in own if key in row}


def _median(rows: Sequence[Row], system: str, parallel: int, key: str, rank: str) -> float | None:
    values = _values(rows, system, parallel, key, rank)
    return float(statistics.median(values.values())) if values else None


def _added(rows: Sequence[Row], system: str, parallel: int, key: str, rank: str) -> float:
    """Median over the rounds of what `system` adds to the call without it."""
    direct = _values(rows, "direct", parallel, key, rank)
    own = _values(rows, system, parallel, key, rank)
    differences = [value - direct[number] for number, value in own.items() if number in direct]
    return float(statistics.median(differences)) if differences else float("nan")


def _ratio(rows: Sequence[Row], system: str, parallel: int, key: str, rank: str) -> float:
    direct = _values(rows, "direct", parallel, key, rank)
    own = _values(rows, system, parallel, key, rank)
    ratios = [value / direct[number] for number, value in own.items() if number in direct]
    return float(statistics.median(ratios)) if ratios else float("nan")


def _ranks(rows: Sequence[Row], system: str, parallel: int, key: str) -> str:
    values = [_median(rows, system, parallel, key, f"p{rank}_ms") for rank in (50, 95, 99)]
    return ", ".join("–" if value is None else f"{value:,.1f}" for value in values)


def _count(rows: Sequence[Row], system: str, parallel: int) -> int:
    return sum(_values(rows, system, parallel, "whole", "n").values())


def _rate(rows: Sequence[Row], system: str, parallel: int) -> float:
    own = [row for row in rows if row["system"] == system and row["parallel"] == parallel]
    return float(statistics.median(row["tokens_per_s"] for row in own)) if own else 0.0


def _times_one(rows: Sequence[Row], parallel: int) -> float:
    """Tokens per second of `parallel` streams without a proxy, by those of one; within a round."""
    rates = {
        (row["parallel"], row["round"]): row["tokens_per_s"]
        for row in rows
        if row["system"] == "direct"
    }
    ratios = [
        rate / rates[1, number] for (count, number), rate in rates.items() if count == parallel
    ]
    return float(statistics.median(ratios))


def _failed(rows: Sequence[Row], system: str, parallel: int) -> int:
    return sum(
        row["failed"] for row in rows if row["system"] == system and row["parallel"] == parallel
    )


def _connections(count: int) -> str:
    return f"{count} connection{'s' * (count > 1)}"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    render(json.loads((target / "chat.json").read_text(encoding="utf-8")), target)
