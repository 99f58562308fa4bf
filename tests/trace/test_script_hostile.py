"""Whatever a user's file does: one sentence with its line and a mend, and nothing on this machine has changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bytebound.errors import DocumentError, RequestError, UnfinishedError, UnknownNameError
from bytebound.trace.script import CACHES, read_target, trace_script

pytest.importorskip("torch", reason="tracing needs torch")
if sys.platform != "linux":
    pytest.skip("the kernel's part of the guard is Linux's", allow_module_level=True)

HOSTILE = Path(__file__).with_name("hostile.py")
RUN_ALL = """
import json, sys
from bytebound.trace import child, guard, landlock
from bytebound.trace.raised import explained
from bytebound.trace.returned import trace_function
file, scratch, *names = sys.argv[1:]
scratch = [scratch, "/dev/null"]
landlock.give_up(writing=True, network=True, signals=True, scratch=scratch)
guard.start((), scratch)
child.audit_saving()
for name in names:
    try:
        trace = trace_function(child.load(file, name), name=name, kind="training", limit_s=20)
        print("\\n@", json.dumps([name, {"peak": trace.peak.held.total, "notes": trace.notes}]))
    except BaseException as error:
        print("\\n@", json.dumps([name, explained(error, name)]))
"""
"""What ``child`` does, for many functions in one process: importing PyTorch is most of the time."""

GPU, VALUES, LOADER = "asks for a GPU", "the values of a tensor", "a data loader has no values"
CHANGES, NETWORK, PROCESS = "--allow write", "--allow network", "--allow process"
WORDED = {
    "raises": "the code raised ValueError: two lines",
    "raises_badly": "the code raised",
    "recurses": "RecursionError",
    "needs": "needs needs a, and is called without arguments",
    "imports_what_is_missing": "no_such_package_of_anyone, which is not installed",
    "reads_a_missing_file": "No such file",
    "asks_the_user": "EOF",
    "wrong_shape": "[4, 63]",
    "returns_a_number": "the function returns int",
    "returns_tensors": "the function returns (Tensor, Tensor)",
    "returns_a_model": "a model without inputs",
    "returns_nothing": "no backward pass ran",
    "forward_alone": "no backward pass ran",
    "frozen": "no parameter gets a gradient",
    "loss_is_a_vector": "the loss is not one number",
    "cuda_method": GPU, "cuda_device": GPU, "cuda_factory": GPU, "cuda_context": GPU, "cuda_properties": GPU,
    "cuda_autocast": "autocast of 'cuda' is off",
    "meta_device": "mixes devices",
    "process_group": "wants a process group",
    "item_of_an_integer": VALUES, "nonzero": VALUES, "boolean_mask": VALUES, "branch": VALUES, "to_numpy": VALUES,
    "data_loader": LOADER, "data_loader_workers": LOADER,
    "forks": PROCESS, "starts_a_program": PROCESS, "runs_a_shell": PROCESS, "multiprocesses": PROCESS,
    "multiprocesses_by_spawn": PROCESS, "becomes_another_program": PROCESS, "kills_its_parent": PROCESS, "kills_its_group": PROCESS,
    "kills_in_c": PROCESS,
    "exits": "sys.exit(3)",
    "writes": CHANGES, "writes_in_c": CHANGES, "saves_a_checkpoint": CHANGES, "removes": CHANGES, "removes_a_folder": CHANGES,
    "renames": CHANGES, "links": CHANGES, "empties": CHANGES,
    "connects": NETWORK, "listens": NETWORK, "sends": NETWORK, "downloads": NETWORK,
}  # fmt: skip
PLACED = {name: WORDED[name] for name in WORDED if name not in {
    "wrong_shape", "returns_a_number", "returns_tensors", "returns_a_model", "returns_nothing", "forward_alone", "frozen", "meta_device",
}}  # fmt: skip
"""Those raised at a line of the file; the others concern what the function returned."""
FINE = ("prints_megabytes", "changes_folder", "prints_its_loss", "tries_to_write", "one_terabyte")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("hostile")
    shutil.copy(HOSTILE, made / "hostile.py")
    (made / "precious").write_text("precious")
    return made


@pytest.fixture(scope="module")
def answers(folder, tmp_path_factory):
    scratch = str(tmp_path_factory.mktemp("scratch"))
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-P", "-B", "-W", "error:CUDA is not available or", "-W", "error:User provided device_type of 'cuda'",
         "-c", RUN_ALL, str(folder / "hostile.py"), scratch, *WORDED, *FINE],
        check=False, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1", **dict.fromkeys(CACHES, scratch)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("@"))


@pytest.mark.parametrize("name", WORDED)
def test_one_sentence_with_its_place_and_mend(name, answers):
    """What is wrong, where in the user's file, and what to do: on one line each."""
    said = answers[name]
    assert WORDED[name] in f"{said['message']}; {said['mend']}"
    assert said["mend"]
    assert not {"\n", "Traceback", "FakeTensor"} & {said["message"], said["mend"]}
    if name in PLACED:
        assert "hostile.py" in said["place"]


@pytest.mark.parametrize("name", FINE)
def test_odd_and_harmless_code_is_traced(name, answers):
    """Printing, moving about and models far larger than memory hurt nobody."""
    assert answers[name]["peak"] > 12 * (64 * 128 + 128 * 8)
    assert (answers["one_terabyte"]["peak"]) > 2**38 * 4 * 4


def test_nothing_has_changed(answers, folder):
    """No attempt left a file, removed one or changed one."""
    assert answers
    assert {path.name for path in folder.iterdir()} == {"hostile.py", "precious"}
    assert (folder / "precious").read_text() == "precious"


def raised_by(target: str, **options: object) -> str:
    with pytest.raises(UnfinishedError) as caught:
        trace_script(target, **options)  # type: ignore[arg-type] - spelt per case
    return str(caught.value)


def test_what_ends_or_keeps_its_process(folder):
    """However a process ends, ours goes on and says which limit or which end it was; nothing hangs."""
    file = folder / "hostile.py"
    asked = {
        "ends_its_process": ({}, "ended its own process with exit code 0 while running ends_its_process"),
        "aborts": ({}, "died of SIGABRT while running aborts"),
        "closes_every_file": ({}, "closed what it answers through"),
        "holds_real_memory": ({"memory_bytes": 1.2e9}, "of real memory while running holds_real_memory"),
        "never_ends": ({"limit_s": 8.0}, "after 8 s, the limit"),
    }
    with ThreadPoolExecutor(len(asked)) as pool:
        said = pool.map(lambda name: raised_by(f"{file}:{name}", **asked[name][0]), asked)
        for name, sentence in zip(asked, said, strict=True):
            assert asked[name][1] in sentence, sentence


@pytest.mark.parametrize(("number", "code", "says"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "")])
def test_a_signal_in_the_middle_leaves_no_process(number, code, says, tmp_path):
    """Ctrl-C ends with 130 and SIGTERM with 143; the code, and what it started where it might, are gone, and so is the scratch."""
    shutil.copy(HOSTILE, tmp_path / "hostile.py")
    (tmp_path / "scratch").mkdir()
    ours = subprocess.Popen(
        [sys.executable, "-m", "bytebound", "trace", "hostile.py:says_that_it_runs_and_never_ends", "--quiet", "--allow", "write,process"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path / "scratch")},
    )  # fmt: skip
    running = tmp_path / "running"
    ends = time.monotonic() + 60
    while not running.exists() and time.monotonic() < ends:
        time.sleep(0.05)
    started = [int(word) for word in running.read_text().split()]
    ours.send_signal(number)
    out, error = ours.communicate(timeout=20)
    assert (ours.returncode, out, error) == (code, "", says)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert all(map(gone, started))


def gone(process: int) -> bool:
    """Whether a process has ended: no entry, or only waiting to be collected by whoever adopted it."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_the_command_says_it_in_three_lines(folder):
    """Exit code 2: message, place and mend, then what the code had printed; no traceback."""
    (folder.parent / "top.py").write_text("import torch\nprint('epoch 0')\nfor step in range(10):\n    torch.zeros(3, device='cuda')\n"
                                          "def step():\n    pass\n")  # fmt: skip
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "bytebound", "trace", f"{folder.parent / 'top.py'}:step"],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert lines[1].startswith("error: the code asks for a GPU")
    assert lines[2].startswith("  at    ")
    assert lines[2].endswith("top.py:4")
    assert [line[:8] for line in lines[3:]] == ["  next  ", "  said  "]


@pytest.mark.parametrize(
    ("content", "function", "error", "says"),
    [
        (b"def step(:\n", "step", DocumentError, "file.py:1: is not Python"),
        (b"\xff\xfe\x00step", "step", DocumentError, "is not Python"),
        (b"x = " + b"+".join([b"1"] * 200_000), "step", DocumentError, "file.py"),
        (b"x = " + b"(" * 5000 + b")" * 5000, "step", DocumentError, "file.py"),
        (b"#" * (2**24 + 1), "step", DocumentError, "is larger than 16.0 MiB"),
        (b"def make_step(): pass", "make_stp", UnknownNameError, "nearest: make_step"),
        (b"def make_step(): pass", "", RequestError, "file.py:make_step"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_run(content, function, error, says, tmp_path):
    """What is not Python, too large, too deep or without the function is told from the text alone."""
    (tmp_path / "file.py").write_bytes(content)
    with pytest.raises(error) as caught:
        read_target(f"{tmp_path / 'file.py'}:{function}")
    assert says in str(caught.value)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe that nobody writes to, a folder and nothing at all are told at once."""
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder.py").mkdir()
    for name in ("pipe.py", "folder.py", "nothing.py"):
        with pytest.raises(DocumentError, match=name):
            read_target(f"{tmp_path / name}:step")
