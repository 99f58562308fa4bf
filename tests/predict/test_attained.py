"""Published shares and what was fitted to them: always physical, offsets add, an empty table changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.facts.calibration import Offset, format_offsets, read_offsets
from bytebound.facts.efficiency import OPERATORS, efficiency, families
from bytebound.facts.engines import engines
from bytebound.facts.formats import FORMS
from bytebound.ledger.ledger import CLASS_NAMES
from bytebound.predict.attained import (
    HOST_QUANTITIES,
    LAST_ERA,
    UNSTATED,
    attained,
    corrected_share,
    engine_terms,
    era_of,
    host_prior,
    published,
    terms,
)

FAMILY, KIND, ENGINE = "nvidia-hopper", "gpu", "vllm"
QUANTITIES = ("compute_share", "bandwidth_share")
offsets_ = st.floats(-300, 300)


def fitted(**values):
    """Return a table of offsets; keys are written ``scope|operator|quantity``."""
    return {tuple(key.split("|")): Offset(value, 0.1, 5, "a test", "2026-11-21") for key, value in values.items()}


def log_odds(share):
    return math.log(share / (1 - share))


def tables(found):
    return {"compute_share": found.compute_share, "bandwidth_share": found.memory_share}


@pytest.mark.parametrize("family", sorted(families()))
def test_an_empty_table_gives_the_published_shares(family):
    """Every share and floor of every family, in every form, as ``facts.efficiency`` has it."""
    found = attained(family, "", ENGINE, {})
    for index, operator in enumerate(CLASS_NAMES):
        for quantity, table in tables(found).items():
            wanted = efficiency(family).of(operator, quantity).value if quantity in OPERATORS[operator] else 1.0
            assert published(family, "", operator, quantity) == wanted
            assert table[index] == pytest.approx(np.full(len(FORMS), wanted), rel=1e-9)
        assert found.floor_s[index] == efficiency(family).of(operator, "floor_s").value
    assert found.link_share == pytest.approx(efficiency(family).of("collective", "link_share").value)


@pytest.mark.parametrize("engine", sorted(engines()))
def test_an_empty_table_gives_the_engines_own_host_times(engine):
    found = attained(FAMILY, KIND, engine, {})
    for quantity in HOST_QUANTITIES:
        assert getattr(found, quantity) == pytest.approx(host_prior(engine, quantity))
        assert getattr(found, quantity) >= 0


@given(st.floats(1e-3, 1 - 1e-3), offsets_, offsets_)
def test_a_share_stays_a_share(base, offset, more):
    """Any offset leaves it between 0 and 1; a larger offset never lowers it; none at all leaves it alone."""
    found = corrected_share(base, offset)
    assert 0 < found < 1
    assert corrected_share(base, 0.0) == pytest.approx(base)
    assert corrected_share(base, max(offset, more)) >= corrected_share(base, min(offset, more))


@given(st.dictionaries(st.sampled_from([
    "pool:datacentre-gpu|gemm|compute_share", "nvidia-hopper|gemm|bandwidth_share", "engine:vllm|gemm|bandwidth_share",
    "form:fp8|gemm|bandwidth_share", "form:wo4:gpu|gemm|compute_share", "nvidia-hopper|gemm|floor_s",
    "engine:vllm|collective|floor_s", "nvidia-hopper|collective|link_share", "engine:vllm|step|host_s_per_step",
]), offsets_))  # fmt: skip
def test_any_offsets_leave_what_is_physical(values):
    found = attained(FAMILY, KIND, ENGINE, fitted(**values))
    for table in (*tables(found).values(), np.array([found.link_share])):
        assert np.all((table > 0) & (table <= 1))
    assert np.all(found.floor_s > 0)
    assert all(getattr(found, quantity) >= 0 for quantity in HOST_QUANTITIES)


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("operator", ["gemm", "expert", "attention-decode", "attention-prefill"])
def test_offsets_of_scopes_add(operator, quantity, form):
    """Each key of a share adds its own offset in log-odds, and keys of other shares add nothing."""
    keys = terms(FAMILY, KIND, ENGINE, operator, quantity, form=form, era="2024")
    table = {key: Offset(0.03 * 2**i, 0.1, 1, "a test", "") for i, key in enumerate(keys)}
    table["never:seen", operator, quantity] = Offset(5.0, 0.1, 1, "a test", "")
    found = tables(attained(FAMILY, KIND, ENGINE, table, "2024"))[quantity]
    base = published(FAMILY, KIND, operator, quantity)
    at = found[CLASS_NAMES.index(operator), FORMS.index(form)]
    assert len(set(keys)) == len(keys)
    assert log_odds(at) - log_odds(base) == pytest.approx(0.03 * (2 ** len(keys) - 1), rel=1e-6)
    other = found[CLASS_NAMES.index("elementwise")]
    assert other == pytest.approx(published(FAMILY, KIND, "elementwise", quantity))


def test_times_are_multiplied():
    """A floor and a host time move by the exponential of their offsets' sum."""
    values = {
        "nvidia-hopper|gemm|floor_s": 0.5,
        "engine:vllm|gemm|floor_s": -0.2,
        "engine:vllm|step|launch_s_decode": 1.0,
    }
    found, plain = attained(FAMILY, KIND, ENGINE, fitted(**values)), attained(FAMILY, KIND, ENGINE, {})
    assert found.floor_s[0] / plain.floor_s[0] == pytest.approx(math.exp(0.3))
    assert found.floor_s[1:] == pytest.approx(plain.floor_s[1:])
    assert found.launch_s_decode / plain.launch_s_decode == pytest.approx(math.e)
    assert found.launch_s_prefill == plain.launch_s_prefill


def test_forms_have_offsets_where_kernels_differ():
    """Weights in 16 bits are the reference; floors, links and element-wise work know no form."""
    plain = terms(FAMILY, KIND, ENGINE, "gemm", "compute_share")
    assert terms(FAMILY, KIND, ENGINE, "gemm", "compute_share", form="fp8") == (
        *plain, ("form:fp8", "gemm", "compute_share"), ("form:fp8:gpu", "gemm", "compute_share"),
    )  # fmt: skip
    for operator, quantity in (
        ("gemm", "floor_s"),
        ("elementwise", "bandwidth_share"),
        ("attention-prefill", "compute_share"),
    ):
        assert not any(
            key[0].startswith("form:") for key in terms(FAMILY, KIND, ENGINE, operator, quantity, form="fp8")
        )
    assert not any(key[0].startswith("engine") for key in terms(FAMILY, KIND, ENGINE, "collective", "link_share"))


@pytest.mark.parametrize(
    ("date", "era"),
    [
        ("2023-06-20", "2023"),
        ("2024", "2024"),
        (LAST_ERA + "-12-31", LAST_ERA),
        ("2025-01-01", ""),
        ("2026-11", ""),
        ("", ""),
    ],
)
def test_the_era_of_a_measurement(date, era):
    assert era_of(date) == era
    assert era_of(date, "0.9.1") == era
    assert era_of(date, UNSTATED) == "unstated"


@given(st.sampled_from(sorted(engines())), st.sampled_from(["2022", "2024"]))
def test_an_earlier_era_has_one_key_more(engine, era):
    today, then = (engine_terms(engine, "gemm", "compute_share", e) for e in ("", era))
    assert then == (*today, (f"engine:{engine}@{era}", "gemm", "compute_share"))
    assert (f"engine:{engine}", "gemm", "compute_share") in today


def test_an_era_moves_only_its_own_time():
    table = fitted(**{"engine:vllm@2023|gemm|compute_share": -1.0})
    then, now = attained(FAMILY, KIND, ENGINE, table, "2023"), attained(FAMILY, KIND, ENGINE, table)
    assert now.compute_share == pytest.approx(attained(FAMILY, KIND, ENGINE, {}).compute_share)
    assert np.all(then.compute_share[0] < now.compute_share[0])
    assert then.compute_share[1:] == pytest.approx(now.compute_share[1:])


def test_offsets_are_read_as_they_were_written(tmp_path):
    table = fitted(**{"engine:vllm|gemm|compute_share": -0.25, "form:fp8|gemm|bandwidth_share": 1.5})
    (tmp_path / "c.csv").write_text(format_offsets(table), encoding="utf-8")
    assert dict(read_offsets(tmp_path / "c.csv")) == table
