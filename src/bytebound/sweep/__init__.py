"""Fleet × roadmap × plans × draws, in parts, on processes or a Ray cluster, streamed to Parquet."""

from bytebound.sweep.run import sweep_fleet

__all__ = ["sweep_fleet"]
