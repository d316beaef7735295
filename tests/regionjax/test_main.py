"""The command: what it understands, and how it ends."""

import errno
import signal

import pytest
from absl.testing import flagsaver

from input_pipeline.errors import DataError
from regionjax import config, main
from regionjax.checkpoint import CheckpointError
from regionjax.config import ConfigError
from regionjax.metrics import NotFinite
from regionjax.settings import Settings
from regionjax.signals import Stopped


@pytest.fixture(autouse=True)
def flags_as_before():
    with flagsaver.flagsaver():
        yield


@pytest.fixture
def file(tmp_path):
    """A config file."""
    path = tmp_path / "small.py"
    path.write_text("import toy\nget_config = toy.config\n")
    return path


def settings_of(*arguments):
    return config.build(Settings, main.parse(["main", *arguments]), "config")


def test_settings_on_the_command_line(file):
    settings = settings_of(
        f"--config={file}",
        "--config.train.steps=50",
        "--config.optim.learning_rate=3e-4",
        "--config.optim.frozen=(('^params/tower/', True), ('.*', False))",
        "--config.train.keep_every=7",  # the file leaves it at its default
        "--config.data.root=2017",  # a string stays one
        "--config.data.tokenizer=runs/a.b",
        "--config.data.world=None",
        "--config.train.evaluate_at_end=true",
    )
    assert settings.train.steps == 50
    assert settings.optim.learning_rate == 3e-4
    assert settings.optim.frozen == (("^params/tower/", True), (".*", False))
    assert settings.train.keep_every == 7
    assert settings.data.root == "2017"
    assert settings.data.tokenizer == "runs/a.b"
    assert settings.data.world is None
    assert settings.train.evaluate_at_end is True


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--config.train.step=50", "config.train.step is not a setting; did you mean `steps`"),
        ("--config.trian.steps=50", "config.trian is not a section; did you mean `train`"),
        ("--config.sead=1", "config.sead is not a setting; did you mean `seed`"),
        ("--config.seed.x=1", "config.seed is not a section"),
        ("--config.train.steps=many", "config.train.steps = 'many' is a str, expected int"),
        ("--config.train.steps=1e3", "config.train.steps = 1000.0 is a float, expected int"),
        ("--config.train=3", "config.train is a section"),
        ("--config.train.steps", "--config.train.steps has no value"),
        ("--wrokdir=x", "Unknown command line flag 'wrokdir'. Did you mean: workdir"),
        ("--mode=trian", "--mode=trian: value should be one of <train|evaluate|chat|plan>"),
        ("workdir", "what is 'workdir' for"),
    ],
)
def test_what_it_does_not_understand(file, arguments, message):
    with pytest.raises(ConfigError, match=message):
        settings_of("--config", str(file), arguments)


@pytest.mark.parametrize(
    "mode, flag",
    [
        ("evaluate", "--force_new_workdir"),
        ("train", "--image=a.jpg"),
        ("train", "--topology=v5e:4x4"),
        ("chat", "--num_slices=2"),
    ],
)
def test_a_flag_that_the_mode_would_not_read(file, mode, flag):
    name = flag.partition("=")[0]
    with pytest.raises(ConfigError, match=f"--mode {mode} has no use for {name}"):
        settings_of(f"--config={file}", f"--mode={mode}", flag)


def test_config_file_that_is_not_there(file):
    with pytest.raises(ConfigError, match="no config file .*smal.py; did you mean `small.py`"):
        settings_of(f"--config={file.with_name('smal.py')}")


def test_no_config_file():
    with pytest.raises(ConfigError, match="--config is missing"):
        settings_of()


@pytest.mark.parametrize(
    "error, code",
    [
        (None, 0),
        (Stopped(signal.SIGINT, 4), 130),
        (Stopped(signal.SIGTERM, 4), 143),
        (KeyboardInterrupt(), 130),
        (ConfigError("a setting"), 2),
        (DataError("a file"), 2),
        (NotFinite("a loss"), 3),
        (CheckpointError("a save"), 4),
        (OSError(errno.ENOSPC, "No space left on device"), 4),
    ],
    ids=repr,
)
def test_exit_codes(monkeypatch, capsys, error, code):
    def dispatch(config):
        if error:
            raise error
        return 0

    monkeypatch.setattr(main, "parse", lambda argv: None)
    monkeypatch.setattr(main, "dispatch", dispatch)
    assert main.main() == code
    assert str(error or "") in capsys.readouterr().err


def test_errors_of_the_program_are_not_hidden(monkeypatch):
    monkeypatch.setattr(main, "parse", lambda argv: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main.main()
