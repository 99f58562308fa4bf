"""Measured numbers: readers of our own table and of public layouts into ``Truth``, and what cannot be expressed, by reason."""

from __future__ import annotations

from bytebound.truth.readings import REASONS, Readings, Unexpressed
from bytebound.truth.table import read_truth, shipped_truth, write_truth

__all__ = ["REASONS", "Readings", "Unexpressed", "read_truth", "shipped_truth", "write_truth"]
