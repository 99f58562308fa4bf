"""The command line: parse, call the API, render. Everything heavy is imported by the verb that runs."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import sys
import traceback
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError

from bytebound.cli.calibrating import calibrate
from bytebound.cli.fleets import audit
from bytebound.cli.levers import levers
from bytebound.cli.lookups import devices, engines, formats, models, prices, schema, trends
from bytebound.cli.measuring import measure
from bytebound.cli.observing import observe
from bytebound.cli.output import BUG, FINE, INTERRUPTED, WRONG, say
from bytebound.cli.planning import plan
from bytebound.cli.proving import prove
from bytebound.cli.serving import Asked, estimate, explain, fit
from bytebound.cli.sweeping import sweep
from bytebound.cli.tracing import trace
from bytebound.cli.training import TrainAsked, train
from bytebound.cli.validating import validate
from bytebound.cli.watching import watch
from bytebound.errors import ByteboundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

app = App(
    name="bytebound",
    help="Audit the memory wall: what models must move, what machines can move, which workload starves first, and what helps.",
    help_format="plaintext",
    help_epilogue="bytebound VERB --help shows the flags of a verb, with examples.",
    version_flags=["--version"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command()


def examples(verb: Callable[..., int]) -> str:
    """Return the examples of a verb's docstring, as its help shows them."""
    lines = (inspect.getdoc(verb) or "").partition("Example")[2].splitlines()[1:]
    return "\n".join(["Examples:", *(f"  {line.strip()}" for line in lines if line.strip())])


for command in (
    audit,
    sweep,
    observe,
    calibrate,
    estimate,
    explain,
    fit,
    levers,
    plan,
    train,
    trace,
    watch,
    measure,
    prove,
    validate,
    devices,
    models,
    prices,
    trends,
    formats,
    engines,
    schema,
):
    app.command(command, help_epilogue=examples(command))


ASKED = (*Asked.__dataclass_fields__, *TrainAsked.__dataclass_fields__)
FLAGS = {"machine": "--on", "sure": "--sure", "fit": "--fit"} | {name: f"--{name.replace('_', '-')}" for name in ASKED}
"""Argument of the API -> the flag that sets it, for the place of an error."""


def explain_error(error: ByteboundError) -> str:
    """Return the sentence, the place and the mend, each on its own line."""
    lines = [f"error: {error.message}"]
    if error.place:
        typed = ", ".join(FLAGS.get(part, part) for part in error.place.split(", "))
        lines.append(f"  at    {typed}")
    if error.mend:
        lines.append(f"  next  {error.mend}")
    lines += [f"  said  {note}" for note in getattr(error, "__notes__", ())]
    return "\n".join(lines)


def run(tokens: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; nothing escapes.

    0 fine, 1 the answer is no, 2 the request was wrong, 3 could not finish, 70 a bug of ours, 130 interrupted.
    """
    try:
        result = app(tokens, exit_on_error=False, print_error=False)
    except ByteboundError as error:
        say(explain_error(error))
        return error.exit_code
    except CycloptsError as error:
        say(f"error: {str(error).rstrip('.')}\n  next  bytebound --help, or bytebound VERB --help")
        return WRONG
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except Exception as error:  # noqa: BLE001 - the one place that may: exit 1 means "no", so a bug must not exit 1
        if os.environ.get("BYTEBOUND_DEBUG"):
            traceback.print_exc()
        say(
            f"error: a bug of ours: {type(error).__name__}: {error}\n  next  run again with BYTEBOUND_DEBUG=1 and report what it prints"
        )
        return BUG
    return result if isinstance(result, int) else FINE


def main() -> None:
    """Run and exit."""
    code = run()
    if "torch" in sys.modules:  # taking its thousands of modules down takes a second and gives nothing back
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        atexit._run_exitfuncs()  # noqa: SLF001 - temporary folders go, coverage is written
        os._exit(code)
    sys.exit(code)
