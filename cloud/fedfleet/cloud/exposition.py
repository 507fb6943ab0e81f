"""Numbers in the text format that Prometheus reads, version 0.0.4, and the numbers of this process. No I/O but /proc.

Source: the format as Prometheus documents it ("Exposition formats", text-based format).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Sample(NamedTuple):
    """One number of a metric; `suffix` is for the parts of a histogram."""

    value: float
    labels: Mapping[str, str] = {}
    suffix: str = ""


class Metric(NamedTuple):
    """One metric by its whole name, its kind (counter, gauge, histogram) and what it means."""

    name: str
    kind: str
    meaning: str
    samples: tuple[Sample, ...]


def gauge(name: str, meaning: str, value: float) -> Metric:
    """Return a metric of one number that goes up and down."""
    return Metric(name, "gauge", meaning, (Sample(value),))


def counter(name: str, meaning: str, value: float) -> Metric:
    """Return a metric of one number that only grows, until the process starts anew."""
    return Metric(name, "counter", meaning, (Sample(value),))


def by(name: str, kind: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a metric with one number for each value of `label`."""
    return Metric(name, kind, meaning, tuple(Sample(value, {label: key}) for key, value in values.items()))


class Histogram:
    """How often a number was at most so large, for each of `bounds`."""

    def __init__(self, *bounds: float) -> None:
        """Count below each of `bounds`, which ascend, and in all."""
        self._counts = dict.fromkeys((*bounds, math.inf), 0)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one number."""
        self._sum += value
        for bound in self._counts:
            self._counts[bound] += value <= bound

    def metric(self, name: str, meaning: str) -> Metric:
        """Return all of it as one metric."""
        buckets = (Sample(count, {"le": _number(bound)}, "_bucket") for bound, count in self._counts.items())
        total = Sample(self._counts[math.inf], suffix="_count")
        return Metric(name, "histogram", meaning, (*buckets, Sample(self._sum, suffix="_sum"), total))


def text(metrics: Iterable[Metric]) -> str:
    """Return the page that Prometheus reads."""
    lines = []
    for name, kind, meaning, samples in metrics:
        lines.append(f"# HELP {name} {_escaped(meaning)}")
        lines.append(f"# TYPE {name} {kind}")
        lines += [f"{name}{sample.suffix}{_labels(sample.labels)} {_number(sample.value)}" for sample in samples]
    return "".join(f"{line}\n" for line in lines)


def process(proc: Path = Path("/proc/self")) -> list[Metric]:
    """Return this process's memory, computing time, start and open files, by the names that all clients give them."""
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")).split()[1]
    files = sum(1 for _ in (proc / "fd").iterdir())
    used, began = (int(fields[11]) + int(fields[12])) / ticks, int(booted) + int(fields[19]) / ticks
    return [
        counter("process_cpu_seconds_total", "Computing time of the aggregator, user and system, in seconds.", used),
        gauge("process_resident_memory_bytes", "Resident memory of the aggregator.", int(fields[21]) * page),
        gauge("process_start_time_seconds", "When the aggregator started, in seconds since 1970.", began),
        gauge("process_open_fds", "Files and sockets that the aggregator has open.", files),
    ]


def _labels(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{_quoted(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _quoted(value: str) -> str:
    return _escaped(value).replace('"', r"\"")


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) else repr(float(value))
