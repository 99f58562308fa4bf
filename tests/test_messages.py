"""Every error class says what is wrong, where, and what to do: word by word."""

from __future__ import annotations

import pytest

import bytebound as bb
from bytebound.errors import (
    ByteboundError,
    DocumentError,
    PhysicsError,
    QuantityError,
    RequestError,
    UnfinishedError,
    UnknownNameError,
    nearest,
)

CASES = {
    ByteboundError: (ByteboundError("it broke"), "it broke", 70),
    RequestError: (
        RequestError("not understood", place="x", mend="say it otherwise"),
        "x: not understood; say it otherwise",
        2,
    ),
    UnknownNameError: (
        UnknownNameError("device", "h10", ["h100-sxm", "l4"], place="--on"),
        "--on: unknown device 'h10'; nearest: h100-sxm",
        2,
    ),
    QuantityError: (
        QuantityError("batch is 0, outside 1 … 1e+09", place="batch"),
        "batch: batch is 0, outside 1 … 1e+09",
        2,
    ),
    DocumentError: (
        DocumentError("no such file", place="f.toml", mend="give a path"),
        "f.toml: no such file; give a path",
        2,
    ),
    UnfinishedError: (UnfinishedError("cannot write", place="x.html"), "x.html: cannot write", 3),
    PhysicsError: (PhysicsError("under the floor"), "under the floor", 70),
}


def test_every_class_is_here():
    def below(kind):
        return {kind, *(name for sub in kind.__subclasses__() for name in below(sub))}

    assert set(CASES) == below(ByteboundError)


@pytest.mark.parametrize(("error", "text", "code"), CASES.values(), ids=[kind.__name__ for kind in CASES])
def test_text_and_exit_code(error, text, code):
    assert str(error) == text
    assert error.exit_code == code


def test_places_nest():
    assert str(DocumentError("wrong", place="key").at("file.toml:3")) == "file.toml:3: key: wrong"


def test_nearest_names():
    known = ["h100-sxm", "h100-pcie", "l40s", "rtx-4090"]

    assert nearest("h100", known) == ("h100-sxm", "h100-pcie")
    assert nearest("rtx-4009", known) == ("rtx-4090",)
    assert nearest("zzzzzz", known) == ()


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (lambda: bb.estimate("llama-3.1-8c", "h100-sxm", bb.Serve()), "unknown model 'llama-3.1-8c'"),
        (lambda: bb.estimate("llama-3.1-8b", "a40x", bb.Serve()), "unknown device 'a40x'; nearest: a40"),
        (lambda: bb.estimate("llama-3.1-8b", "0x h100-sxm", bb.Serve()), "0"),
        (lambda: bb.estimate("llama-3.1-8b", "h100-sxm", bb.Serve(weights="fp7")), "weights: unknown dtype 'fp7'; nearest: fp8"),
        (lambda: bb.estimate("llama-3.1-8b", "h100-sxm", bb.Serve(engine="vlm")), "unknown engine 'vlm'; nearest: vllm"),
        (lambda: bb.estimate("llama-3.1-8b", "h100-sxm", bb.Serve(tp=8)), "tp × pp × dp is 8 and h100-sxm has 1 device"),
        (lambda: bb.estimate("qwen3-30b-a3b", "8x h100-sxm", bb.Serve(tp=2, ep=8)), "ep is 8; it can be at most tp × dp"),
        (lambda: bb.estimate("llama-3.1-8b", "feynman", bb.Serve()), "feynman"),
        (lambda: bb.from_json(bb.Estimate, "{}"), "document: model: Field required"),
        (lambda: bb.from_json(bb.Audit, "[1"), "document: not JSON"),
    ],
)  # fmt: skip
def test_bad_requests_name_what_was_not_understood(question, text):
    """An unknown accelerator, model, dtype or engine is an error with the nearest names, never a default."""
    with pytest.raises(ByteboundError) as caught:
        question()

    assert text in str(caught.value)
    assert caught.value.exit_code == 2
