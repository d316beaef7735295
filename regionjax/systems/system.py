"""The contract between a system and everything else: trainer, evaluators, planner."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from regionjax import lora
from regionjax.batch import SLOTS, TEXTS
from regionjax.config import ConfigError, nearest
from regionjax.config import build as build_config
from regionjax.lora import LoraConfig


@dataclasses.dataclass(frozen=True)
class System:
    """Pure functions over parameters and batches; all that others know about a model.

    Attributes:
      init: (rng, batch) → (params, state). `state` is carried but not trained; may be empty.
      losses: (params, state, batch, rng, train) → ({name: (sum, weight)}, state, aux). Weights are
        functions of the batch alone, so that sums over micro-batches can be divided once.
      loss_names: the names that `losses` returns; the config gives each a weight.
      predict: the functions below, as far as the system has them.
        caption_nll(params, batch) → f32 [B, R], mean nats a target token. A batch may have W
          texts a slot, target and target_weight [B, R, W, T]; then f32 [B, R, W]. T need not be
          batch.target_length.
        generate(params, batch, rng, *, eos_id, config) → i32 [B, R, max_new_tokens]
        heatmap(params, batch) → f32 [B, R, h, w], sums to 1 a slot, for the text in `prompt`
        embed(params, batch) → f32 [B, R, D], the region's vector
        see(params, batch) → features, all that is to be known of the images alone
        converse(params, features, batch, room) → logits f32 [B, 1, V] of the first token of an
          answer, and a cache for `room` tokens more. The R slots of an image are the turns of one
          conversation, see `turns`; each has its region and, as `prompt`, its text. The last turn
          is the one that is answered.
        advance(params, cache, tokens i32 [B, 1]) → logits f32 [B, 1, V], cache: a token more
      sharding_rules: ((regex, PartitionSpec), …), first match over paths such as
        params/decoder/layers/query/kernel; every path must match, every pattern must be used.
      vocabulary: V; the token ids of a batch are below it.
      flops: () → flops.Work, what one image costs.
    """

    init: Callable
    losses: Callable
    loss_names: tuple[str, ...]
    predict: Mapping[str, Callable]
    sharding_rules: tuple
    vocabulary: int
    flops: Callable


def turns(batch):
    """bool [B, R]: slots that show something, the turns of a conversation; others are passed over.

    No region, not even a point, has an empty mask.
    """
    return (batch["region_mask"] > 0).any((-2, -1))


def one_text_a_slot(batch):
    """A batch of W texts a slot, [B, R, W, T], as one of R·W slots with a text each."""
    images, _, texts, length = batch["target"].shape
    slots = {name: jnp.repeat(batch[name], texts, axis=1) for name in SLOTS}
    return batch | slots | {name: batch[name].reshape(images, -1, length) for name in TEXTS}


def build(config, spec):
    """The system that `config.system` names, with `config.model` as its settings.

    With a section `config.lora` it has adapters (regionjax/lora.py).

    Args:
      config: the whole ConfigDict.
      spec: BatchSpec.
    """
    folder = pathlib.Path(__file__).parent
    known = sorted(p.stem for p in folder.glob("*.py") if p.stem not in ("__init__", "system"))
    if config.system not in known:
        raise ConfigError(f"config.system = {config.system!r}{nearest(config.system, known)}")
    module = importlib.import_module(f"regionjax.systems.{config.system}")
    built = module.build(config.model, spec)
    if not config.get("lora"):
        return built
    return lora.adapted(built, build_config(LoraConfig, config.lora, "config.lora"), spec)
