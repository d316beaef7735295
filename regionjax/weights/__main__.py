"""Public weights in and out.

    python -m regionjax.weights import SOURCE DIR     a Hugging Face directory or an ALBEF .pth
    python -m regionjax.weights export DIR OUT        back, or what a run made of it
    python -m regionjax.weights check SOURCE          against transformers; needs torch
    python -m regionjax.weights show SOURCE | DIR     the parameters, without their values

Exit codes: 0 done; 1 check: above the tolerance; 2 something cannot be used, the message says what.
"""

import argparse
import sys

from regionjax import journal
from regionjax.checkpoint import CheckpointError
from regionjax.config import ConfigError, nearest
from regionjax.mesh import AXES, MeshConfig, make_mesh
from regionjax.weights.table import WeightsError


def parser():
    """The command line."""
    whole = argparse.ArgumentParser(
        prog="python -m regionjax.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(
        dest="command", required=True, metavar="import|export|check|show"
    )

    add = commands.add_parser("import", help="a public checkpoint into one of ours")
    add.add_argument("source", help="Hugging Face directory with safetensors, or an ALBEF .pth")
    add.add_argument("folder", help="folder to be made; config.init_from takes it")
    add.add_argument("--dtype", default="float32", help="float32 (default) or bfloat16")
    add.add_argument(
        "--mesh", default="fsdp=-1", help="of the layout on disk, such as fsdp=4,tensor=2"
    )

    add = commands.add_parser("export", help="one of our checkpoints for transformers or PEFT")
    add.add_argument("folder", help="an imported checkpoint or the folder of a run")
    add.add_argument("out", help="folder to be made; of ALBEF, a .pth")
    add.add_argument("--step", type=int, help="of the checkpoint; default the newest")
    add.add_argument("--part", default="", help="scope of a run's parameters, such as decoder")
    add.add_argument("--like", help="imported checkpoint whose architecture the part has")
    add.add_argument("--lora", default="merge", help="adapters: merge (default) or peft")
    add.add_argument("--shard_gb", type=float, default=5.0, help="largest size of a file")

    add = commands.add_parser("check", help="both implementations on random inputs")
    add.add_argument("source", help="Hugging Face directory")
    add.add_argument("--dtype", default="float32", help="of our computation: float32, bfloat16")

    add = commands.add_parser("show", help="parameters, counts and bytes")
    add.add_argument("path", help="a public checkpoint, an imported one or the folder of a run")
    return whole


def run(arguments):
    """Does what the command line says and returns the exit code."""
    # Imported for the command that needs it, as the libraries take seconds.
    if arguments.command == "import":
        from regionjax.weights.importing import import_weights

        mesh = make_mesh(_mesh(arguments.mesh))
        import_weights(arguments.source, arguments.folder, mesh, dtype=arguments.dtype)
    if arguments.command == "export":
        from regionjax.weights.exporting import export_weights

        export_weights(
            arguments.folder,
            arguments.out,
            step=arguments.step,
            part=arguments.part,
            like=arguments.like,
            lora_as=arguments.lora,
            shard_bytes=int(arguments.shard_gb * 10**9),
        )
    if arguments.command == "check":
        from regionjax.weights import checking

        comparisons = checking.check(arguments.source, dtype=arguments.dtype)
        lines, alike = checking.report(comparisons, arguments.dtype)
        print("\n".join(lines))
        return 0 if alike else 1
    if arguments.command == "show":
        from regionjax.weights.showing import show

        print("\n".join(show(arguments.path)))
    return 0


def _mesh(text):
    """MeshConfig of a text such as "fsdp=4,tensor=2"; an axis that is not named has size 1."""
    sizes = dict.fromkeys(AXES, 1)
    try:
        for item in text.split(","):
            axis, _, size = item.partition("=")
            if axis not in AXES:
                raise ValueError(f"{axis!r} is no axis{nearest(axis, AXES)}")
            sizes[axis] = int(size)
        return MeshConfig(**sizes)
    except ValueError as error:
        raise ConfigError(f"--mesh {text}: {error}; write it as fsdp=4,tensor=2") from error


def main(arguments=None):
    """The whole program; returns one of the exit codes above.

    Args:
      arguments: of the command line; default those of this process.
    """
    arguments = parser().parse_args(arguments)
    journal.to_console()
    try:
        return run(arguments)
    except (WeightsError, ConfigError, CheckpointError, OSError) as error:
        print(f"regionjax.weights: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
