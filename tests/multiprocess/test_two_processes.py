"""Two processes with four devices each are one run: same losses, one checkpoint, one stop."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "regionjax"))

import toy  # noqa: E402

from regionjax import checkpoint, metrics  # noqa: E402


class Enough(Exception):
    pass


def stop_at_step_six(first):
    if first == 5 * 16:
        raise Enough


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_two_processes_are_one_run(tmp_path):
    folder, port = tmp_path / "two", free_port()
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    worker = str(pathlib.Path(__file__).with_name("worker.py"))
    workers = [
        subprocess.Popen(
            [sys.executable, worker, str(folder), str(port), str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [128 + signal.SIGTERM] * 2, said
    # The signal reached one of them; both saved the same step.
    steps = {int(re.search(r"stopped after (\d+)", text).group(1)) for text in said}
    assert steps == {checkpoint.latest_step(folder / "checkpoints")}

    with pytest.raises(Enough):
        toy.run(tmp_path / "one", before=stop_at_step_six, **toy.TOGETHER)
    mine, theirs = (metrics.read(tmp_path / name)[:4] for name in ("two", "one"))
    for entry, expected in zip(mine, theirs, strict=True):
        for name in ("loss", "gradient_norm", "regions", "first_example", "last_example"):
            assert entry[name] == pytest.approx(expected[name], rel=1e-5), name
