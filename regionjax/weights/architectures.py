"""The architectures whose public checkpoints are read and written, by their config.json's names."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from regionjax.config import nearest
from regionjax.models import swin, t5, vit
from regionjax.weights import files
from regionjax.weights.table import WeightsError
from regionjax.weights.tables import swin as swin_table
from regionjax.weights.tables import t5 as t5_table
from regionjax.weights.tables import vit as vit_table


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A public architecture and the module of ours that it is.

    Attributes:
      name: of the class in transformers, as in config.json's `architectures`.
      module: (config, dtype) → nn.Module.
      inputs: (config) → arguments that initialise all its parameters, arrays or their shapes.
      rows: (config) → table.
      config_from: (config.json, names of the tensors) → config.
      sharding_rules: of the module's own parameters.
    """

    name: str
    module: Callable
    inputs: Callable
    rows: Callable
    config_from: Callable
    sharding_rules: tuple

    def shapes(self, config, dtype):
        """Nested parameters as ShapeDtypeStructs of `dtype`."""
        module = self.module(config, jnp.float32)
        init = lambda: module.init(jax.random.key(0), *self.inputs(config))  # noqa: E731
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), jax.eval_shape(init)["params"]
        )


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint that was recognised: `json` is its config.json, `config` our reading of it."""

    architecture: Architecture
    config: object
    json: dict
    tensors: object


def _image(config):
    return jnp.zeros((1, config.image_size, config.image_size, 3), jnp.uint8)


def _tokens(length=2):
    return jnp.zeros((1, length), jnp.int32)


def _swin(name, rows):
    return Architecture(
        name=name,
        module=swin.Swin,
        inputs=lambda config: (_image(config),),
        rows=rows,
        config_from=lambda json, names: swin_table.config_from(json),
        sharding_rules=swin.SHARDING_RULES,
    )


def _vit(name, model_type, rows):
    """`model_type`: of a tower alone, as vit_table says it."""
    return Architecture(
        name=name,
        module=vit.ViT,
        inputs=lambda config: (_image(config),),
        rows=lambda config: rows(config, model_type),
        config_from=lambda json, names: vit_table.config_from(json),
        sharding_rules=vit.SHARDING_RULES,
    )


ALL = (
    _swin("SwinModel", swin_table.rows),
    _swin("SwinForImageClassification", swin_table.classifier_rows),
    Architecture(
        name="T5ForConditionalGeneration",
        module=t5.T5,
        inputs=lambda config: (_tokens(), _tokens()),
        rows=t5_table.rows,
        config_from=t5_table.config_from,
        sharding_rules=t5.SHARDING_RULES,
    ),
    *(_vit(name, kind, vit_table.rows) for kind, name in vit_table.CLASSES.items()),
    _vit("ViTForImageClassification", "vit", vit_table.classifier_rows),
    _vit("DeiTForImageClassification", "deit", vit_table.classifier_rows),
    _vit("DeiTForImageClassificationWithTeacher", "deit", vit_table.classifier_rows),
    _vit("CLIPModel", "clip_vision_model", vit_table.pair_rows),
    _vit("SiglipModel", "siglip_vision_model", vit_table.pair_rows),
    _vit("Siglip2Model", "siglip2_vision_model", vit_table.pair_rows),
)
ARCHITECTURES = {architecture.name: architecture for architecture in ALL}


def identify(source):
    """Opens a checkpoint and says what it is.

    Args:
      source: a Hugging Face directory or an ALBEF .pth.

    Raises:
      WeightsError: no config.json, an unknown architecture, or files that cannot be read.
    """
    source = pathlib.Path(source)
    if not source.exists():
        raise WeightsError(f"there is no {source}")
    json = files.read_json(source / "config.json")
    architecture = known(json, source / "config.json")
    tensors = files.open_tensors(source)
    return Found(architecture, configured(architecture, json, tensors.headers), json, tensors)


def known(json, where):
    """The architecture that a config.json names."""
    names = json.get("architectures") or ["(none)"]
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    raise WeightsError(
        f"{where}: architecture {names[0]} is not known{nearest(names[0], ARCHITECTURES)}"
        f"\n  known: {', '.join(ARCHITECTURES)}"
    )


def configured(architecture, json, names):
    """Our config of a config.json."""
    try:
        return architecture.config_from(json, names)
    except KeyError as error:
        raise WeightsError(f"config.json of {architecture.name} has no {error}") from error
