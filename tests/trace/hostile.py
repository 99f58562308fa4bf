"""Code that ``bytebound trace`` must survive: every function is one attempt, read by ``test_script_hostile``; not imported by it."""

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

HERE = Path(__file__).parent
PRECIOUS = HERE / "precious"


def model():
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8))


def x():
    return torch.zeros(4, 64)


def stepping(loss_of):
    m = model()
    return m, lambda: loss_of(m(x())).backward()


# ----- code that is wrong


def raises():
    raise ValueError("two\nlines")


def raises_badly():
    class OddError(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    raise OddError


def recurses():
    return recurses()


def needs(a, b=2):
    return a, b


def imports_what_is_missing():
    import no_such_package_of_anyone  # noqa: F401


def reads_a_missing_file():
    return torch.load(HERE / "nothing.pt"), x()


def asks_the_user():
    input("go on?")


def wrong_shape():
    return model(), torch.zeros(4, 63)


def returns_a_number():
    return 42


def returns_tensors():
    return x(), x()


def returns_a_model():
    return model()


def returns_nothing():
    pass


def forward_alone():
    m = model()
    return m, lambda: m(x())


def frozen():
    return model().requires_grad_(requires_grad=False), x()


def loss_is_a_vector():
    return stepping(lambda y: y[0])


# ----- a GPU


def cuda_method():
    return model().cuda(), x()


def cuda_device():
    return model().to("cuda:0"), x()


def cuda_factory():
    return model(), torch.zeros(4, 64, device="cuda")


def cuda_context():
    with torch.device("cuda"):
        return model(), x()


def cuda_properties():
    torch.cuda.get_device_properties(0)


def cuda_autocast():
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return model(), x()


def meta_device():
    with torch.device("meta"):
        m = model()
    return m, x()


def process_group():
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, init_method="tcp://127.0.0.1:29511")


# ----- values that no traced tensor has


def item_of_an_integer():
    return stepping(lambda y: y[: torch.randint(0, 4, (1,)).item()].sum())


def nonzero():
    return stepping(lambda y: y[y.nonzero(as_tuple=True)].sum())


def boolean_mask():
    return stepping(lambda y: y[y > 0].sum())


def branch():
    return stepping(lambda y: y.sum() if y.sum() > 0 else y.mean())


def to_numpy():
    return stepping(lambda y: y.sum() + float(y.detach().numpy().sum()))


def data_loader():
    return stepping(lambda y: y.sum() + sum(b.sum() for (b,) in DataLoader(TensorDataset(x()), batch_size=2)))


def data_loader_workers():
    return stepping(lambda y: y.sum() + sum(b.sum() for (b,) in DataLoader(TensorDataset(x()), num_workers=2)))


# ----- processes


def forks():
    if os.fork() == 0:
        os._exit(0)


def starts_a_program():
    subprocess.run(["touch", HERE / "WROTE"], check=True)  # noqa: S603, S607


def runs_a_shell():
    os.system(f"touch {HERE / 'WROTE'}")  # noqa: S605


def multiprocesses():
    multiprocessing.get_context("fork").Process(target=print).start()


def multiprocesses_by_spawn():
    multiprocessing.get_context("spawn").Process(target=print).start()


def becomes_another_program():
    os.execv("/bin/true", ["true"])  # noqa: S606


def kills_its_parent():
    os.kill(os.getppid(), signal.SIGKILL)


def kills_its_group():
    os.killpg(0, signal.SIGKILL)


def kills_in_c():
    ctypes.CDLL(None).kill(os.getppid(), signal.SIGKILL)


def exits():
    sys.exit(3)


# ----- files


def writes():
    (HERE / "WROTE").write_text("x")


def writes_in_c():
    np.save(HERE / "WROTE.npy", np.zeros(3))


def saves_a_checkpoint():
    torch.save({}, HERE / "WROTE.pt")


def removes():
    PRECIOUS.unlink()


def removes_a_folder():
    shutil.rmtree(HERE)


def renames():
    PRECIOUS.rename(HERE / "WROTE")


def links():
    (HERE / "WROTE").symlink_to("/")


def empties():
    os.truncate(PRECIOUS, 0)


# ----- the network


def connects():
    socket.create_connection(("127.0.0.1", 9), timeout=5)


def listens():
    socket.socket().bind(("127.0.0.1", 29600))


def sends():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))


def downloads():
    urllib.request.urlopen("http://127.0.0.1:9/")


# ----- harmless, however odd


def prints_megabytes():
    sys.stdout.write("x" * 5_000_000)
    return model(), x()


def changes_folder():
    os.chdir("/")
    return model(), x()


def prints_its_loss():
    m = model()

    def step():
        loss = m(x()).sum()
        loss.backward()
        print(f"loss {loss.item():.3f}")  # noqa: T201

    return m, step


def tries_to_write():
    with contextlib.suppress(OSError):
        (HERE / "WROTE").write_text("x")
    return model(), x()


def one_terabyte():
    return nn.Linear(2**19, 2**19), torch.zeros(1, 2**19)


# ----- each in a process of its own, for it ends or keeps it


def ends_its_process():
    os._exit(0)


def aborts():
    os.abort()


def closes_every_file():
    os.closerange(0, 256)


def holds_real_memory():
    kept = []
    while True:
        kept.append(np.ones(2**24))


def never_ends():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass


def says_that_it_runs_and_never_ends():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (HERE / "pids").write_text(f"{os.getpid()} {child.pid}")
    os.rename(HERE / "pids", HERE / "running")  # noqa: PTH104
    while True:
        pass
