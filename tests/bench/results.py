"""Tables and plots of the backend's benchmark, from what `bench_backend.py` measured.

    .venv/bin/python tests/bench/results.py docs/benchmarks      draw again from backend.json

The prose of `backend.md` is written by hand; what lies between its markers is replaced.
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

__all__ = ["render", "write_measured"]

_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"

_MODELS = {
    "digits": "digits, one 8 × 8 picture per request as JSON",
    "digits-binary": "digits, the same pictures as binary tensors",
    "minilm": "MiniLM fp32, one text of 32 tokens per request",
    "minilm-mixed": "MiniLM fp32, one text of 8 to 128 tokens per request",
}


def render(result: dict[str, Any], folder: Path) -> None:
    """Write the plots, and the tables between the markers of `backend.md`."""
    lines = [_conditions(result), ""]
    for name in (each for each in _MODELS if each in result["workloads"]):
        workload = result["workloads"][name]
        lines += [f"### {_MODELS[name][0].upper()}{_MODELS[name][1:]}", ""]
        lines += _raw(workload["raw"])
        lines += _table(workload["rounds"])
        for file, title, unit, key in (
            (f"backend-{name}-throughput.svg", "Throughput", "requests/s, log", "per_second"),
            (f"backend-{name}-p99.svg", "99th percentile of latency", "ms, log", "p99_ms"),
        ):
            chart = _chart(f"{title}: {name}", unit, workload["rounds"], key)
            (folder / file).write_text(chart, encoding="utf-8")
            lines += [f"![{title}]({file})", ""]
    lines += _absent(result["absent"])
    for name, overload in result["overload"].items():
        lines += _overload(name, overload)
    write_measured(folder / "backend.md", "# The backend beside other servers", "\n".join(lines))


def write_measured(document: Path, title: str, measured: str) -> None:
    """Replace what lies between the markers of `document`, which begins with `title` if new."""
    text = document.read_text(encoding="utf-8") if document.exists() else f"{title}\n\n"
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2] or "\n"
    document.write_text(f"{before}{_BEGIN}\n{measured.strip()}\n{_END}{after}", encoding="utf-8")


def _conditions(result: dict[str, Any]) -> str:
    versions = "; ".join(result["versions"].values())
    priority = (
        f"While measured, client and server ran at nice {result['priority']}. "
        if result["priority"]
        else ""
    )
    return (
        f"{result['date']}, {result['machine']}. Peers: {versions}. "
        f"{result['rounds']} rounds of {result['seconds']:g} s per number. {priority}"
        f"Load average of the machine before and after: {result['load_average_before']:.1f}, "
        f"{result['load_average_after']:.1f}."
    )


def _raw(rounds: Sequence[dict[str, float]]) -> list[str]:
    parts = []
    for rows in sorted({each["rows"] for each in rounds}):
        p50 = statistics.median(each["p50_ms"] for each in rounds if each["rows"] == rows)
        parts.append(f"{rows} row{'s' * (rows > 1)}: {p50:.3f} ms, {rows / p50 * 1e3:,.0f} items/s")
    return [f"`session.run` alone, median: {'; '.join(parts)}.", ""]


def _table(rounds: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "| Connections | Server | Requests/s | p50 ms | p99 ms | n | Failed | Ours ÷ it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count in _connections(rounds):
        at = [each for each in rounds if each["connections"] == count]
        ours = {each["round"]: each["per_second"] for each in at if each["server"] == "ours"}
        for server in dict.fromkeys(each["server"] for each in at):
            own = [each for each in at if each["server"] == server]
            ratios = [ours[e["round"]] / e["per_second"] for e in own if e["per_second"]]
            ratio = f"{statistics.median(ratios):.2f}" if ratios and server != "ours" else ""
            lines.append(
                f"| {count} | {server} | {_median(own, 'per_second'):,.0f} "
                f"| {_median(own, 'p50_ms'):.2f} | {_median(own, 'p99_ms'):.2f} "
                f"| {sum(e['n'] for e in own)} | {sum(e['failed'] for e in own)} | {ratio} |"
            )
    return [*lines, ""]


def _connections(rounds: Sequence[dict[str, Any]]) -> list[int]:
    return sorted({each["connections"] for each in rounds})


def _median(rounds: Sequence[dict[str, Any]], key: str) -> float:
    return float(statistics.median(each[key] for each in rounds))


def _chart(title: str, unit: str, rounds: Sequence[dict[str, Any]], key: str) -> str:
    series: dict[str, list[float | None]] = {}
    for server in dict.fromkeys(each["server"] for each in rounds):
        series[server] = []
        for count in _connections(rounds):
            own = [e for e in rounds if e["server"] == server and e["connections"] == count]
            series[server].append(_median(own, key) if own else None)
    groups = [f"{count} connection{'s' * (count > 1)}" for count in _connections(rounds)]
    return bar_chart(title, unit, groups, series)


def _absent(absent: dict[str, str]) -> list[str]:
    if not absent:
        return []
    return ["Not measured:", "", *(f"- {name}: {reason}" for name, reason in absent.items()), ""]


def _overload(name: str, overload: dict[str, Any]) -> list[str]:
    lines = [
        f"### Overload: {name}, each request with a deadline of {overload['deadline_ms']} ms",
        "",
        f"{overload['date']}, {overload['machine']}; load average {overload['load_average']:.1f}.",
        "",
        "| | Offered/s | In time/s | Late | Expired | Refused (p50, p99, max) | Broken | In vain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    connections = overload["peak"]["connections"]
    for label, key in (
        (f"peak, {connections} connections in a closed loop", "peak"),
        ("by the clock", "overload"),
    ):
        row = overload[key]
        offered = row["offered_per_second"]
        times = [row[f"refusal_{each}_ms"] for each in ("p50", "p99", "max")]
        refusals = ", ".join("none" if each is None else f"{each:.1f}" for each in times)
        lines.append(
            f"| {label} | {'' if offered is None else f'{offered:,.0f}'} "
            f"| {row['goodput_per_second']:,.0f} | {row['late']} | {row['expired']} "
            f"| {row['refused']} ({refusals}) | {row['broken']} | {row['computed_in_vain']} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    target = Path(sys.argv[1])
    render(json.loads((target / "backend.json").read_text(encoding="utf-8")), target)
