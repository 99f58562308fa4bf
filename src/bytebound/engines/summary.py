"""What a server's requests add up to: pure functions from their records to spreads, in seconds and tokens per second.

The terms are those of vLLM's ``bench serve`` (``calculate_metrics`` in vllm-project/vllm ``vllm/benchmarks/serve.py``)
and GenAI-Perf: TTFT, time to first token; TPOT, (request time − TTFT) / (output tokens − 1), one figure per request;
ITL, the time between successive stream events. Two differences: TTFT counts from when a request was *due*, so a client
or a server that falls behind an open loop is not forgiven (in a closed loop a request is due when it is sent); and
besides tokens over the whole run, which filling and draining slow down, there is a rate in the steady window.
Requests that failed count nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.observation import PhaseRun, RequestRun, Spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray


def spread(values: Iterable[float], *, rate: bool = False) -> Spread | None:
    """Return best, median, 10 and 90 % points of ``values``; None where there are none.

    Args:
        values: times, of which the shortest is best, or rates.
        rate: the highest is best.

    Example:
        >>> spread([1.0, 2.0, 3.0])
        Spread(best=1.0, median=2.0, p10=1.2, p90=2.8, samples=3)
    """
    array = np.fromiter(values, dtype=float)
    if not array.size:
        return None
    best = array.max() if rate else array.min()
    p10, median, p90 = (float(point) for point in np.quantile(array, (0.1, 0.5, 0.9)))
    return Spread(float(best), median, p10, p90, int(array.size))


def succeeded(requests: Sequence[RequestRun]) -> list[RequestRun]:
    """Return the requests that were answered to the end."""
    return [run for run in requests if not run.error and run.first_token_s is not None and run.last_token_s is not None]


def ttft_s(requests: Sequence[RequestRun]) -> Spread | None:
    """Return the time from when a request was due to its first token."""
    return spread(_first(run) - run.due_s for run in succeeded(requests))


def tpot_s(requests: Sequence[RequestRun]) -> Spread | None:
    """Return each request's mean time per output token after the first."""
    many = [run for run in succeeded(requests) if run.output_tokens >= 2]
    return spread((_last(run) - _first(run)) / (run.output_tokens - 1) for run in many)


def itl_s(requests: Sequence[RequestRun]) -> Spread | None:
    """Return the time between successive stream events that carried text, over all requests."""
    return spread(gap for run in succeeded(requests) for gap in run.gaps_s)


def request_s(requests: Sequence[RequestRun]) -> Spread | None:
    """Return the time from when a request was due to its last token."""
    return spread(_last(run) - run.due_s for run in succeeded(requests))


def tokens_per_s(requests: Sequence[RequestRun]) -> float | None:
    """Return output tokens of finished requests over the makespan: the first due to the last token."""
    good = succeeded(requests)
    seconds = max((_last(run) for run in good), default=0.0) - min((run.due_s for run in good), default=0.0)
    return sum(run.output_tokens for run in good) / seconds if seconds > 0 else None


def steady_window(requests: Sequence[RequestRun]) -> tuple[float, float] | None:
    """Return the time [s] between the first request that finished and the last that was sent.

    In it the server both takes and finishes requests, so it is neither filling nor draining; a closed loop then has
    its full concurrency in flight. None where no request was sent after the first had finished.
    """
    good = succeeded(requests)
    if not good:
        return None
    start, end = min(_last(run) for run in good), max(run.sent_s for run in good)
    return (start, end) if end > start else None


def steady_tokens_per_s(requests: Sequence[RequestRun]) -> Spread | None:
    """Return output tokens per second in the steady window; None where it is shorter than nine tenths of a request.

    Each sample is a stretch in which as many requests were sent as are in flight on average: one cycle of a closed
    loop. Slots that march in step prefill together and then decode together, and another length would see too much of
    one of the two. An event that carried text stands for its share of the request's output tokens.
    """
    window, good = steady_window(requests), succeeded(requests)
    if window is None or window[1] - window[0] < 0.9 * float(np.median([_last(run) - run.sent_s for run in good])):
        return None
    busy = sum(max(min(_last(run), window[1]) - max(run.sent_s, window[0]), 0.0) for run in good)
    flying = max(round(busy / (window[1] - window[0])), 1)
    sends = np.sort([run.sent_s for run in good if run.sent_s >= window[0]])
    starts, ends = sends[:-flying], sends[flying:]
    at = np.concatenate([_events_s(run) for run in good])
    tokens = np.concatenate([np.full(len(run.gaps_s) + 1, run.output_tokens / (len(run.gaps_s) + 1)) for run in good])
    order = np.argsort(at)
    until = np.concatenate([[0.0], np.cumsum(tokens[order])])
    inside = until[np.searchsorted(at[order], ends)] - until[np.searchsorted(at[order], starts)]
    longer = ends > starts
    return spread(inside[longer] / (ends - starts)[longer], rate=True)


def phases(requests: Sequence[RequestRun]) -> tuple[PhaseRun, ...]:
    """Return the run as phases: decode always, prefill only where requests never overlapped.

    A decode step is a request's TPOT. Its batch is how many requests decoded at once as a token saw it, ∫n² dt / ∫n dt;
    its context is the mean prompt and half the output. With several in flight a step includes other requests'
    prefill that the server ran in between, and TTFT includes waiting, so it is no prefill time.
    """
    good = succeeded(requests)
    step, first = tpot_s(good), ttft_s(good)
    if step is None or first is None:
        return ()
    prompt = float(np.mean([run.prompt_tokens for run in good]))
    depth = prompt + float(np.mean([run.output_tokens for run in good])) / 2
    batch = overlap([(_first(run), _last(run)) for run in good])
    decode = PhaseRun("decode", step, batch=batch, context=depth, tokens=batch)
    if overlap([(run.sent_s, _last(run)) for run in good]) > 1.01:
        return (decode,)
    return (PhaseRun("prefill", first, batch=1.0, context=0.0, tokens=prompt), decode)


def overlap(intervals: Sequence[tuple[float, float]]) -> float:
    """Return how many of ``intervals`` [s] overlap on average, seen from inside one: ∫n² dt / ∫n dt.

    Example:
        >>> overlap([(0.0, 2.0), (1.0, 3.0)])
        1.5
    """
    starts, ends = np.array(intervals, dtype=float).reshape(-1, 2).T
    moments = np.unique(np.concatenate([starts, ends]))
    count = np.searchsorted(np.sort(starts), moments, "right") - np.searchsorted(np.sort(ends), moments, "right")
    seconds, number = np.diff(moments), count[:-1]
    total = float((number * seconds).sum())
    return float((number**2 * seconds).sum()) / total if total > 0 else 1.0


def _events_s(run: RequestRun) -> NDArray[np.float64]:
    return _first(run) + np.concatenate([[0.0], np.cumsum(run.gaps_s)])


def _first(run: RequestRun) -> float:
    return float("nan") if run.first_token_s is None else run.first_token_s


def _last(run: RequestRun) -> float:
    return float("nan") if run.last_token_s is None else run.last_token_s
