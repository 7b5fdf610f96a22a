"""How long an execution will take, learnt from those that were: a + b x units.

Units are rows, or rows x length where items are padded. The line is fitted by least squares
whose memory fades, so it follows a machine that slows down.

Beside what is expected stands the least that was seen. Only that may refuse a request to an idle
model: an expectation that is too high would else refuse everything, and never be corrected.
"""

from __future__ import annotations

__all__ = ["ServiceTime"]

_FADE = 0.95
"""Weight that an observation keeps when the next arrives: about the last twenty count."""

_PROMISE_SPREADS = 2.0
"""Mean misses added to a promise: about nine of ten are kept."""

_FORGET = 1.01
"""Growth of the least duration with every execution: after seventy it has doubled."""


class ServiceTime:
    """Predicts the duration of an execution from its units."""

    __slots__ = ("_n", "_x", "_xx", "_xy", "_y", "least_s", "spread_s")

    def __init__(self) -> None:
        self.spread_s = 0.0
        """By how much executions miss what was expected, on average."""
        self.least_s = 0.0
        """Duration of the fastest of the recent executions, whatever its units."""
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def observe(self, units: float, seconds: float) -> None:
        """Learn from one execution."""
        if self._n:
            miss = abs(seconds - self.predict(units))
            self.spread_s = self.spread_s * _FADE + miss * (1 - _FADE)
        self.least_s = min(seconds, self.least_s * _FORGET) if self._n else seconds
        self._n = self._n * _FADE + 1.0
        self._x = self._x * _FADE + units
        self._y = self._y * _FADE + seconds
        self._xx = self._xx * _FADE + units * units
        self._xy = self._xy * _FADE + units * seconds

    def line(self) -> tuple[float, float]:
        """Seconds per execution and per unit; both zero before the first observation."""
        if self._n == 0.0:
            return 0.0, 0.0
        spread = self._n * self._xx - self._x * self._x
        mean_x, mean_y = self._x / self._n, self._y / self._n
        if spread <= 1e-9 * self._xx * self._n:
            # One size only was seen: a bigger one is taken to cost in proportion.
            return 0.0, mean_y / mean_x if mean_x else 0.0
        slope = max(0.0, (self._n * self._xy - self._x * self._y) / spread)
        return max(0.0, mean_y - slope * mean_x), slope

    def predict(self, units: float) -> float:
        """Seconds that an execution of `units` is expected to take."""
        base, slope = self.line()
        return base + slope * units

    def promise(self, units: float) -> float:
        """Seconds within which an execution of `units` most probably ends: for deadlines."""
        return self.predict(units) + self.margin_s

    @property
    def margin_s(self) -> float:
        """Seconds that a promise adds to what is expected."""
        return _PROMISE_SPREADS * self.spread_s
