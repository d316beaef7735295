"""Eight CPU devices for every test; this must happen before JAX starts its backend."""

import gc
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile far longer than they compute: do without LLVM's optimisations, without the newer of
# XLA's code generators, which takes three times as long, and without splitting small programs.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",
)

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from regionjax import journal

jax.config.update("jax_num_cpu_devices", 8)
# Tracing makes much and drops little; Python would look for garbage in a tenth of the time.
gc.set_threshold(20_000, 10, 10)

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"
# The files that take longest, so that no process is left with one of them at the end.
FIRST = (
    "test_commands.py",
    "weights/test_readme.py",
    "regionjax/test_plan.py",
    "regionjax/test_resume.py",
)


def pytest_collection_modifyitems(items):
    """Begins with the FIRST files; all others keep their order."""

    def place(item):
        path = item.path.as_posix()
        return next((n for n, name in enumerate(FIRST) if path.endswith(name)), len(FIRST))

    items.sort(key=place)


@pytest.fixture
def shared_data():
    """Real files that are not part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data in {SHARED}")
    return SHARED


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """Programs are compiled once for a whole file of tests and the processes that it starts."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    compilation_cache.reset_cache()  # it would remember that there was none
    yield
    for name, value in before.items():
        jax.config.update(name, value)
        del os.environ[name.upper()]
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def no_console_of_another_test():
    """Commands that ran in this process leave no printer of messages behind."""
    yield
    journal.log.handlers.clear()
