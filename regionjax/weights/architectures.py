"""The public architectures that are read and written, by the names of their classes.

`config.json` names the class of a Hugging Face directory; the .pth files of the ALBEF repository
have no config, their tensors say what they are.
"""

import dataclasses
import difflib
import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from regionjax.models import albef, bert, decoder, instructblip, paligemma, swin, t5, vit
from regionjax.weights import files
from regionjax.weights.table import WeightsError
from regionjax.weights.tables import albef as albef_table
from regionjax.weights.tables import bert as bert_table
from regionjax.weights.tables import decoder as decoder_table
from regionjax.weights.tables import instructblip as instructblip_table
from regionjax.weights.tables import paligemma as paligemma_table
from regionjax.weights.tables import swin as swin_table
from regionjax.weights.tables import t5 as t5_table
from regionjax.weights.tables import vit as vit_table


@dataclasses.dataclass(frozen=True)
class Description:
    """What is known of a checkpoint before its tensors are read.

    Attributes:
      values: config.json; empty for ALBEF.
      shapes: {name of a tensor: shape}.
      processor: preprocessor_config.json, or None.
    """

    values: dict
    shapes: dict
    processor: dict | None = None


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A public architecture and the module of ours that it is.

    Attributes:
      name: of the class in transformers, as in config.json's `architectures`; or ALBEF.
      family: those that are compared with their references in one way; see checking.py.
      module: (config, dtype) → nn.Module.
      inputs: (config) → arguments of `method` that initialise all parameters.
      rows: (config) → table.
      configure: (Description) → config.
      sharding_rules: (config) → rules for the module's own parameters.
      method: of the module.
      tower: (config) → config.json of what is ours, where that is only a part; this is exported.
    """

    name: str
    family: str
    module: Callable
    inputs: Callable
    rows: Callable
    configure: Callable
    sharding_rules: Callable
    method: str = "__call__"
    tower: Callable | None = None

    def shapes(self, config, dtype):
        """Nested parameters as ShapeDtypeStructs of `dtype`."""
        module = self.module(config, jnp.float32)
        init = functools.partial(module.init, method=self.method)
        shapes = jax.eval_shape(lambda: init(jax.random.key(0), *self.inputs(config)))["params"]
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)

    def config(self, description):
        """Our config of a checkpoint. Raises WeightsError where it is not one of this class."""
        try:
            return self.configure(description)
        except KeyError as error:
            raise WeightsError(f"config.json of a {self.name} has no {error}") from error
        except WeightsError:
            raise
        except (AttributeError, TypeError, ValueError) as error:  # the config's own checks
            raise WeightsError(f"config.json of a {self.name}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint that was recognised."""

    architecture: Architecture
    description: Description
    config: object
    tensors: object


def _image(config):
    return jnp.zeros((1, config.image_size, config.image_size, 3), jnp.uint8)


def _tokens(*shape):
    return jnp.zeros(shape, jnp.int32)


def _vits():
    """Towers alone, and those that are taken from a pair of towers or from a classifier."""
    shared = {
        "family": "vit",
        "module": vit.ViT,
        "inputs": lambda config: (_image(config),),
        "configure": lambda found: vit_table.config_from(found.values, found.processor),
        "sharding_rules": lambda config: vit.SHARDING_RULES,
    }
    classifier = "ForImageClassification"
    for model_type, name in vit_table.CLASSES.items():
        yield Architecture(name, rows=_of(vit_table.rows, model_type), **shared)
    for name, rows, model_type in (
        ("CLIPModel", vit_table.pair_rows, "clip_vision_model"),
        ("SiglipModel", vit_table.pair_rows, "siglip_vision_model"),
        ("Siglip2Model", vit_table.pair_rows, "siglip2_vision_model"),
        ("ViT" + classifier, vit_table.classifier_rows, "vit"),
        ("DeiT" + classifier, vit_table.classifier_rows, "deit"),
        ("DeiT" + classifier + "WithTeacher", vit_table.classifier_rows, "deit"),
    ):
        tower = _of(vit_table.config_to, model_type)
        yield Architecture(name, rows=_of(rows, model_type), tower=tower, **shared)


def _of(function, model_type):
    return lambda config: function(config, model_type)


def _swins():
    shared = {
        "family": "swin",
        "module": swin.Swin,
        "inputs": lambda config: (_image(config),),
        "configure": lambda found: swin_table.config_from(found.values),
        "sharding_rules": lambda config: swin.SHARDING_RULES,
    }
    yield Architecture("SwinModel", rows=swin_table.rows, **shared)
    yield Architecture(
        "SwinForImageClassification",
        rows=swin_table.classifier_rows,
        tower=swin_table.config_to,
        **shared,
    )


def _berts():
    shared = {
        "family": "bert",
        "module": bert.Bert,
        "inputs": lambda config: (_tokens(1, 1, 2),),
        "rows": bert_table.rows,
        "configure": lambda found: bert_table.config_from(found.values),
        "sharding_rules": bert.sharding_rules,
    }
    yield Architecture("BertModel", **shared)
    yield Architecture("BertForMaskedLM", **shared)
    yield Architecture("BertForPreTraining", tower=bert_table.config_to, **shared)


def _decoders():
    shared = {
        "family": "decoder",
        "module": decoder.Decoder,
        "inputs": lambda config: (_tokens(1, 2),),
        "configure": lambda found: decoder_table.config_from(found.values),
        "sharding_rules": lambda config: decoder.SHARDING_RULES,
        "method": "read",
    }
    for name in decoder_table.CLASSES.values():
        yield Architecture(name, rows=decoder_table.rows, **shared)
    yield Architecture(
        "Gemma3ForConditionalGeneration",
        rows=decoder_table.multimodal_rows,
        tower=decoder_table.config_to,
        **shared,
    )


def _encoder_decoders():
    yield Architecture(
        "T5ForConditionalGeneration",
        family="t5",
        module=t5.T5,
        inputs=lambda config: (_tokens(1, 2), _tokens(1, 2)),
        rows=t5_table.rows,
        configure=lambda found: t5_table.config_from(found.values, found.shapes),
        sharding_rules=lambda config: t5.SHARDING_RULES,
    )


def _systems():
    for name, *_ in instructblip_table.KINDS.values():
        yield Architecture(
            name,
            family="instructblip",
            module=instructblip.InstructBlip,
            inputs=_instructblip_inputs,
            rows=instructblip_table.rows,
            configure=lambda found: instructblip_table.config_from(
                found.values, found.shapes, found.processor
            ),
            sharding_rules=instructblip.sharding_rules,
        )
    yield Architecture(
        "PaliGemmaForConditionalGeneration",
        family="paligemma",
        module=paligemma.PaliGemma,
        inputs=lambda config: (_image(config.vit), _tokens(1, 1, 2), _tokens(1, 1, 2)),
        rows=paligemma_table.rows,
        configure=lambda found: paligemma_table.config_from(found.values, found.processor),
        sharding_rules=lambda config: paligemma.SHARDING_RULES,
    )
    yield Architecture(
        "ALBEF",
        family="albef",
        module=albef.Albef,
        inputs=lambda config: (_image(config.vit), _tokens(1, 1, 2)),
        rows=albef_table.rows,
        configure=lambda found: albef_table.config_from(found.shapes),
        sharding_rules=albef.sharding_rules,
    )


def _instructblip_inputs(config):
    tokens = _tokens(1, 1, 2)
    instruction = tokens if config.qformer.vocabulary else None
    return _image(config.vit), instruction, tokens, tokens


_FAMILIES = (_vits, _swins, _berts, _decoders, _encoder_decoders, _systems)
ARCHITECTURES = {
    architecture.name: architecture for family in _FAMILIES for architecture in family()
}


def identify(source):
    """Opens a checkpoint and says what it is.

    Args:
      source: a Hugging Face directory, or a .pth of ALBEF.

    Raises:
      WeightsError: no config.json, an unknown architecture, or files that cannot be read.
    """
    source = pathlib.Path(source)
    if not source.exists():
        raise WeightsError(f"there is no {source}")
    values, processor, architecture = {}, None, ARCHITECTURES["ALBEF"]
    if source.is_file() and source.suffix not in (".pth", ".pt"):
        raise WeightsError(f"{source} is no .pth; of Hugging Face's files, name the directory")
    if source.is_dir():
        values = files.read_json(source / "config.json")
        architecture = known(values, source / "config.json")
        if (source / "preprocessor_config.json").is_file():
            processor = files.read_json(source / "preprocessor_config.json")
    tensors = files.open_tensors(source)
    shapes = {name: shape for name, (shape, _) in tensors.headers.items()}
    description = Description(values, shapes, processor)
    return Found(architecture, description, architecture.config(description), tensors)


def known(values, where):
    """The architecture that a config.json names."""
    names = values.get("architectures") or ["(none)"]
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    public = [name for name in ARCHITECTURES if name != "ALBEF"]
    near = difflib.get_close_matches(names[0], public, n=1, cutoff=0.9)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    raise WeightsError(
        f"{where}: architecture {names[0]} is not known{hint}; known: {', '.join(public)}"
    )
