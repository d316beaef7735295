"""Every config and every command of the README runs, at a tiny size."""

import contextlib
import importlib
import io
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import pytest
from absl import flags

from regionjax import journal

pytestmark = pytest.mark.usefixtures("compiled_once")

ROOT = pathlib.Path(__file__).parent.parent
COCO = ROOT.parent / "shared" / "data" / "coco_mini"
TINY = {
    "train.steps": 2,
    "train.batch_size": 4,
    "evaluate.max_images": 3,
    "evaluate.batch_size": 2,
    "evaluate.bootstrap_samples": 20,
    "evaluate.gallery": 2,
    "model.vit.depth": 1,
    "model.vit.unroll": 1,
    "model.decoder.depth": 1,
    "model.decoder.unroll": 1,
}
# The same for regionvlm, whose language model is another one.
TINY_VLM = {name: value for name, value in TINY.items() if "decoder" not in name} | {
    "model.qformer.depth": 1,
    "model.qformer.unroll": 1,
    "model.t5.decoder_depth": 1,
    "model.t5.unroll": 1,
    "evaluate.point_samplings": 2,
    "evaluate.scored_together": 16,
}
SMALL_WORLD = {"data.world.train": 16, "data.world.val": 4, "data.world.test": 4}


def run(arguments, stdin="", **overrides):
    """Does what `python -m …` does in the repository, on one device, and returns what it says.

    It happens in this process, as a new one would import and compile everything again.
    """
    module, *rest = map(str, [*arguments, *(f"--config.{k}={v}" for k, v in overrides.items())])
    name = f"{module}.__main__" if module == "regionjax.weights" else module
    program = importlib.import_module(name)
    said, code = io.StringIO(), 0
    device = jax.devices()[:1]
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(contextlib.redirect_stderr(said))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [module, *rest])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        patch.setattr(os, "cpu_count", lambda: 1)  # no processes of its own for a few images
        patch.setattr(journal.log, "handlers", [])
        patch.setattr(jax, "devices", lambda *_: device)
        for each in flags.FLAGS.flags_by_module_dict().get(module, ()):
            stack.callback(each.unparse)  # flagsaver would forget those of Grain, imported inside
        try:
            code = program.main()
        except SystemExit as exit:
            code = exit.code
    assert not code, said.getvalue()
    return said.getvalue()


def run_as_a_process(arguments, **overrides):
    """The same in a process of its own."""
    changes = [f"--config.{name}={value}" for name, value in overrides.items()]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments), *changes],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def readme_commands():
    text = (ROOT / "README.md").read_text()
    blocks = "\n".join(re.findall(r"```\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    commands = [shlex.split(line) for line in blocks.splitlines() if line.startswith("python ")]
    assert len(commands) >= 6
    return [command[2:] for command in commands]


def starts_from_public_weights(command):
    """Those commands are tried in tests/weights/test_readme.py."""
    config = flag(command, "--config") or ""
    return command[0] == "regionjax.weights" or "configs/regionlm_pretrained.py" in config


def flag(command, name):
    """The value after --name, or None."""
    return command[command.index(name) + 1] if name in command else None


@pytest.mark.slow
def test_the_readme_in_the_order_in_which_it_is_read(tmp_path):
    """Training, overriding, evaluating, preparing: the README's own lines, made small."""
    for command in readme_commands():
        if flag(command, "--mode") == "plan":
            continue  # tests/regionjax/test_plan.py
        if starts_from_public_weights(command):
            continue  # test_the_readme_from_public_weights
        command = [
            part.replace("prepared=prepared", f"prepared={tmp_path}/out") for part in command
        ]
        if command[0] == "input_pipeline.prepare":
            places = {
                "DIR": COCO,
                "prepared": tmp_path / "out",
                "coco.html": tmp_path / "coco.html",
            }
            command = [str(places.get(part, part)) for part in command]
            command = [part.replace("DIR/", f"{COCO}/") for part in command]
            if "--annotations" not in command or COCO.is_dir():
                assert run(command)
            continue
        if "configs/claims/" in flag(command, "--config"):
            continue  # test_the_claims_of_regionvlm
        folder = pathlib.Path(flag(command, "--workdir"))
        command[command.index("--workdir") + 1] = str(tmp_path / folder.name)
        if flag(command, "--config") == "configs/quickstart.py":
            # The first of two commands on a folder decides its size, the second evaluates.
            small = TINY | SMALL_WORLD | {"data.root": tmp_path / "world"}
            small["train.evaluate_at_end"] = False
            if flag(command, "--mode") == "chat":
                picture = next((tmp_path / "world" / "test2017").iterdir())
                command[command.index("--image") + 1] = str(picture)
                said = run(command, "@48,50\n@box 1,2,3\nred\n", **small)
                assert "whole image> @48,50\n" in said and "point 48,50> red\n" in said
                assert said.count("\n! ") == 1 and "'1,2,3' is no box" in said
                continue
            if flag(command, "--mode") != "evaluate":
                short = [part for part in command if ".steps=" not in part]
                if short == command:
                    run_as_a_process(short, **small)
                else:
                    run(short, **small)
                assert (tmp_path / folder.name / "checkpoints" / "2").is_dir()
                continue
            run(command, **small)
            report = json.loads((tmp_path / folder.name / "report.json").read_text())
            assert report["train/steps"] == 2
            assert (tmp_path / folder.name / "report.html").stat().st_size > 10_000
        else:
            assert flag(command, "--config") == "configs/coco_regions.py"
            if COCO.is_dir():
                root = [part.replace("=DIR", f"={COCO}") for part in command]
                prepared = root == command
                run(root, **TINY, **{"train.evaluate_at_end": prepared})
                assert (tmp_path / folder.name / "checkpoints" / "2").is_dir()
                if not prepared:  # the other one's report is enough
                    continue
                report = json.loads((tmp_path / folder.name / "report.json").read_text())
                assert 0 <= report["region_caption/exact_match"] <= 1


@pytest.mark.slow
def test_the_2b_config_trains_on_the_built_in_world(tmp_path):
    """The same code path with small towers; the world's own tokenizer in place of a public one."""
    small = {
        "batch.image_size": 56,
        "batch.regions": 4,
        "model.vit.image_size": 56,
        "model.vit.width": 32,
        "model.vit.heads": 2,
        "model.vit.mlp_width": 64,
        "model.decoder.width": 32,
        "model.decoder.heads": 2,
        "model.decoder.head_width": 16,
        "model.decoder.mlp_width": 64,
        "model.decoder.vocabulary": 4096,
        "mesh.data": 1,
        "mesh.fsdp": 1,
        "train.evaluate_at_end": False,
    }
    world = tmp_path / "world"
    from input_pipeline.scenes.writer import write_world

    write_world(world, seed=0, train=8, val=2, test=2, processes=1, progress=False)
    (tmp_path / "config.py").write_text(
        "from regionjax.config import load\n"
        "def get_config():\n"
        f"    config = load({str(ROOT / 'configs/regionlm_2b.py')!r})\n"
        "    config = config.copy_and_resolve_references().unlock()\n"
        "    config.data.mixture = {'coco': 0.5, 'localized_narratives': 0.5}\n"
        "    config.data.tokenizer = ''\n"
        f"    config.data.root = {str(world)!r}\n"
        "    return config\n"
    )
    tiny = {name: value for name, value in TINY.items() if not name.endswith("unroll")}
    folder = tmp_path / "run"
    run(
        ["regionjax.main", "--config", str(tmp_path / "config.py"), "--workdir", str(folder)],
        **(tiny | small),
    )
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2


@pytest.mark.slow
def test_regionvlm_on_the_built_in_world(tmp_path):
    """configs/regionvlm.py:tiny; the other sizes: tests/configs/test_regionvlm_config.py."""
    folder = tmp_path / "run"
    run(
        ["regionjax.main", "--config", "configs/regionvlm.py:tiny", "--workdir", str(folder)],
        **TINY_VLM,
        **SMALL_WORLD,
        **{"data.root": tmp_path / "world"},
    )
    report = json.loads((folder / "report.json").read_text())
    assert report["train/steps"] == 2 and 0 <= report["ris/miou"] <= 1
    assert report["pointing/accuracy"] is None  # it has no heatmap


@pytest.mark.slow
def test_the_claims_of_regionvlm(tmp_path):
    """configs/claims/regionvlm.py: two of its runs at a tiny size, and their table."""
    [command] = [c for c in readme_commands() if "configs/claims/" in (flag(c, "--config") or "")]
    command[command.index("--workdir") + 1] = str(tmp_path / "claims")
    small = {"claims.only": "('base','hidden')", "claims.seeds": "(0,)"}
    run(command, **TINY_VLM, **SMALL_WORLD, **small)
    table = json.loads((tmp_path / "claims" / "claims.json").read_text())
    rows = {row["part"] + row["number"]: row for row in table["rows"]}
    assert rows["a4"]["score"] == "base:ris/miou" and rows["a4"]["verdict"] != "not measured"
    assert rows["b1"]["verdict"] == "not measured"  # its runs are left out
    assert {name: runs["seeds"] for name, runs in table["runs"].items()} == {
        "base": [0],
        "hidden": [0],
    }
    assert (tmp_path / "claims" / "base-seed0" / "report.html").stat().st_size > 10_000
    assert "<svg" in (tmp_path / "claims" / "claims.html").read_text()


def test_every_config_is_tried_here():
    tried = pathlib.Path(__file__).read_text()
    for config in (ROOT / "configs").rglob("*.py"):
        assert f"{config.relative_to(ROOT)}" in tried, f"no test runs {config.relative_to(ROOT)}"


def test_the_readme_lists_every_file_of_the_library():
    readme = (ROOT / "README.md").read_text()
    for folder in ("regionjax", "input_pipeline", "configs"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "__init__.py":
                assert file.name in readme, f"the README's tree lacks {file.relative_to(ROOT)}"
