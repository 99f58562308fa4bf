"""The fit of training step times: known offsets found again, publications that stay in their bounds, widths that hold their share."""

from dataclasses import replace

import numpy as np
import pytest

from bytebound.facts.calibration import Offset
from bytebound.facts.training_shares import FACTOR, prior_sd
from bytebound.fitting.training import cases, fit_training, one_per_run
from bytebound.fitting.training_left_out import LeftOut, half_widths, interval_factor
from bytebound.truth.training_table import shipped_training_table

ROWS = one_per_run(shipped_training_table())
GEMM, TRAFFIC = ("pool:datacentre-gpu", "gemm", "share"), ("framework:fsdp", "elementwise", "traffic")
TRUE = {GEMM: Offset(0.5, 0, 0, "", ""), TRAFFIC: Offset(-0.4, 0, 0, "", "")}


def rows_of(*sources):
    return [row for row in ROWS if row.source in sources]


@pytest.fixture(scope="module")
def made():
    """Runs of two publications on one family, whose seconds are what ``TRUE`` offsets say."""
    found = cases(rows_of("mosaicml-llm-foundry", "korthikanti-2022"))
    return [replace(case, measured_s=case.predicted_s(TRUE)) for case in found]


def test_known_offsets_are_found_again(made):
    fitted = fit_training(made)
    missed = np.concatenate([np.log(case.predicted_s(fitted) / case.measured_s) for case in made])
    before = np.concatenate([np.log(case.predicted_s({}) / case.measured_s) for case in made])

    assert np.abs(missed).max() < 0.05 < np.abs(before).max()
    gemm = sum(
        fitted[key].offset
        for key in fitted
        if key[1:] == ("gemm", "share") and "tpu" not in key[0] and "hopper" not in key[0]
    )
    assert gemm == pytest.approx(0.5, abs=0.25)
    assert fitted[TRAFFIC].offset < -0.1
    assert all(
        one.sd <= prior_sd(key) + 1e-9 for key, one in fitted.items()
    )  # rows can only narrow what the prior says


def test_a_publication_moves_no_family_and_framework_it_has_no_run_of():
    tpus, others = cases(rows_of("maxtext")), cases(rows_of("korthikanti-2022"))
    fitted = fit_training([replace(case, measured_s=case.measured_s * 3) for case in tpus])

    assert not [key for key in fitted if key[0].startswith("nvidia") or key[0] == "framework:megatron"]
    alone, with_tpus = fit_training(others), fit_training(others + tpus)
    for case in others:
        assert case.predicted_s(with_tpus) == pytest.approx(case.predicted_s(alone), rel=0.05)


def test_a_publication_of_many_rows_counts_as_one_of_twenty():
    """Korthikanti's ten rows keep their say beside MosaicML's forty, once or five times over."""
    few, many = cases(rows_of("korthikanti-2022")), cases(rows_of("mosaicml-llm-foundry"))
    once, often = fit_training(few + many), fit_training(few + many * 5)

    for case in few:
        assert case.predicted_s(often) == pytest.approx(case.predicted_s(once), rel=0.01)


def test_what_no_fitted_run_has_is_less_certain():
    """Fitted to dense runs on A100 and H100 alone: routed experts on Blackwell are less certain than with such runs, dense ones too."""
    dense, moe = (
        cases([next(row for row in ROWS if row.source == "megatron-bridge" and model in row.model and "b200" in row.device)])[0]
        for model in ("Llama-3-70B", "DeepSeek-V3")
    )  # fmt: skip
    old = cases(rows_of("korthikanti-2022", "mosaicml-llm-foundry"))
    strange, known = fit_training(old), fit_training([*old, *cases(rows_of("megatron-bridge"))])

    for case in (dense, moe):
        assert case.log_sd(strange)[0] > case.log_sd(known)[0] * 1.1


@pytest.mark.parametrize("tail", [np.inf, 3.0])
def test_intervals_hold_their_share(tail):
    rng = np.random.default_rng(1)
    rows = [
        row for row in ROWS if row.source in {"mosaicml-llm-foundry", "bloom-tuning", "simumax-b200", "megatron-bridge"}
    ]
    draws = rng.standard_normal(len(rows)) if np.isinf(tail) else rng.standard_t(tail, len(rows))
    sds = rng.uniform(0.05, 0.3, len(rows))
    left = [LeftOut(row, float(d * sd), float(sd)) for row, d, sd in zip(rows, draws, sds, strict=True)]

    inside = np.abs([one.error for one in left]) <= half_widths(left)
    assert 0.7 < inside.mean() < 0.9
    assert interval_factor(left)[FACTOR].offset == pytest.approx(1.28 if np.isinf(tail) else 1.64, rel=0.2)


def test_an_interval_does_not_know_its_own_publication():
    rows = rows_of("mosaicml-llm-foundry", "bloom-tuning")
    left = [LeftOut(row, 2.0 if row.source == "bloom-tuning" else 0.1, 0.1) for row in rows]
    width = dict(zip((row.source for row in rows), half_widths(left), strict=False))

    assert width["bloom-tuning"] == pytest.approx(0.1)
    assert width["mosaicml-llm-foundry"] == pytest.approx(2.0)
