"""Proofs: a lever applied to a real model on a real engine here, before and after, beside the prediction.

``trial.py`` says what a trial is (two sides, what is timed, what is predicted), ``run.py`` runs one and judges it,
``catalogue.py`` lists every trial this machine may run, ``known.py`` finds earlier proofs.

Every engine runs in a child process of its own (``child.py``), driven over pipes by ``remote.py``. An engine is one module,
an *adapter*, with one function:

```python
def open(settings: dict[str, Any]) -> Engine: ...     # a model loaded and ready; settings are JSON values
```

``Engine`` is any object with ``version: str`` and methods; the parent calls them by name (``{"do": "time", "what": "step"}``).
A method that is timed returns nothing and repeats: each call leaves the engine as it found it. Usual names, so that trials of
engines read alike (an engine has those that make sense for it; more are welcome, such as ``train_step``):

- ``prepare(depth)``: put every sequence at ``depth`` tokens, so that steps are taken there (not timed)
- ``step(depth=0)``: one decode step of the whole batch
- ``prefill(tokens, past=0)``: pass ``tokens`` new tokens of one sequence after ``past`` ones
- ``generate(tokens)``: a whole greedy generation
- ``memory() -> dict[str, float]``: bytes by name: ``weights``, ``kv``, ``resident`` (what the process grew by)
- ``logits(tokens: list[list[int]], file: str)``: save float32 logits (sequences, positions, vocabulary) as ``.npy``
- ``tokenize(text) -> list[int]``
- ``close()``

Errors: an adapter raises the errors of ``bytebound.errors`` (DocumentError where its package is missing, QuantityError for a
setting it cannot take); anything else becomes one sentence. Adapters live in ``bytebound.engines`` (``prove_llamacpp.py`` is the
first) and may print whatever they like: standard output is not the pipe.

Trials of an engine are made by one module here, named after it (``llamacpp.py``), whose ``TRIALS`` maps lever -> a function
of a ``Bench`` (folder, machine, threads, what to prove on) that returns a ``Trial``; add the module to ``catalogue.ENGINES``.
"""
