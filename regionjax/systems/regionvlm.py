"""regionvlm: RegionVLM (Lee et al., NAACL 2024), InstructBLIP that is pointed at by words.

The Q-Former reads a region's points as text (models/trajectory.py) while its queries look at the
image; what they gather is a soft prompt, from which T5 writes. T5 never sees the points. One loss,
`caption`: the mean over the tokens of all answers.

What is trained is settled by `config.optim.frozen`; `FROZEN` is the published choice: the Q-Former,
its queries, the projection and the norm after the ViT are trained, the ViT's layers and T5 are not.
The image is seen once and its cross-attention keys and values are made once, however many regions
ask about it.
"""

import dataclasses
import functools

import jax.numpy as jnp

from regionjax import decode, flops
from regionjax.config import ConfigError
from regionjax.config import build as build_config
from regionjax.losses import caption
from regionjax.models import trajectory, trajectory_start
from regionjax.models.bert import BertConfig
from regionjax.models.instructblip import InstructBlip, InstructBlipConfig, sharding_rules
from regionjax.models.t5 import T5Config, shift_right
from regionjax.models.vit import ViTConfig
from regionjax.regions import WHOLE_IMAGE
from regionjax.systems.system import System, turns

# For config.optim.frozen; T5 and the tower keep what they know.
FROZEN = (("^params/vit/norm/", False), ("^params/(vit|t5)/", True), (".*", False))


@dataclasses.dataclass(frozen=True)
class RegionVLMConfig:
    """Three models and the words between them.

    Attributes:
      words: ids of the trajectory's words in the Q-Former's vocabulary.
      max_point_tokens: word pieces that the Q-Former reads, [CLS] and [SEP] included; 0 is room for
        all K points. The released model has 32, which is seven points and a half.
      eos_id: what ends T5's prompt, as its tokenizer does.
      dtype: of the computation; parameters stay float32.
    """

    vit: ViTConfig
    qformer: BertConfig
    t5: T5Config
    words: trajectory.TrajectoryWords = trajectory.TrajectoryWords()
    max_point_tokens: int = 0
    eos_id: int = 1
    dtype: str = "float32"
    vocabulary_chunks: int = 1

    @property
    def network(self):
        """InstructBlipConfig."""
        return InstructBlipConfig(self.vit, self.qformer, self.t5)

    def point_tokens(self, points):
        """Word pieces of a text of K points."""
        return trajectory.room(self.words, points, self.max_point_tokens)


def is_whole(batch):
    """bool [B, R]: regions that are the whole image, not ones that only reach all its borders."""
    box = (batch["region_box"] == WHOLE_IMAGE.box).all(-1)
    return box & (batch["region_mask"].min((-2, -1)) == 255)


def ended(prompt, eos_id):
    """Prompts as T5 reads them: i32 [B, R, Tp], padded at the end with 0 → eos behind the tokens.

    Returns:
      i32 [B, R, Tp + 1]; an empty prompt is eos alone.
    """
    prompt = jnp.pad(prompt, ((0, 0), (0, 0), (0, 1)))
    length = (prompt > 0).sum(-1, keepdims=True)
    return jnp.where(jnp.arange(prompt.shape[-1]) == length, eos_id, prompt)


def _check(c, spec):
    """Raises ConfigError where model and batch disagree."""
    if c.vit.interpolation == "none" and c.vit.image_size != spec.image_size:
        raise ConfigError(
            f"config.model.vit.image_size = {c.vit.image_size}, but config.batch.image_size = "
            f"{spec.image_size}, and config.model.vit.interpolation = 'none'"
        )
    if max(c.words.ids) >= c.qformer.vocabulary:
        raise ConfigError(
            f"config.model.words has id {max(c.words.ids)}, but "
            f"config.model.qformer.vocabulary = {c.qformer.vocabulary}"
        )
    if c.max_point_tokens and c.max_point_tokens < trajectory.ENDS + c.words.point_pieces:
        raise ConfigError(
            f"config.model.max_point_tokens = {c.max_point_tokens} has no room for a point, "
            f"which needs {trajectory.ENDS + c.words.point_pieces}"
        )
    if (tokens := c.point_tokens(spec.points)) > c.qformer.positions:
        raise ConfigError(
            f"config.batch.points = {spec.points} make {tokens} word pieces, but "
            f"config.model.qformer.positions = {c.qformer.positions}; max_point_tokens cuts them"
        )
    if c.qformer.heads < 2:
        raise ConfigError("config.model.qformer.heads = 1; x and y need a head each")
    if not 0 < c.eos_id < c.t5.vocabulary:
        raise ConfigError(f"config.model.eos_id = {c.eos_id} is no word of T5's")


def build(section, spec):
    """System from `config.model`.

    Args:
      section: ConfigDict of RegionVLMConfig.
      spec: BatchSpec.

    Raises:
      ConfigError: model and batch disagree.
    """
    c = build_config(RegionVLMConfig, section, "config.model")
    _check(c, spec)
    network = InstructBlip(c.network, jnp.dtype(c.dtype))

    def asked(batch):
        """Image, trajectories and prompts; R is the batch's, which may differ from the spec's."""
        points, whole = batch["region_points"], is_whole(batch)
        said = trajectory.words(c.words, points, whole, c.max_point_tokens)
        return batch["image"], said, ended(batch["prompt"], c.eos_id)

    def init(rng, batch):
        params = network.init(rng, *asked(batch), batch["target"])["params"]
        tower = params["vit"]
        patches = tower["position_embedding"][len(c.vit.prefix) :]
        former = trajectory_start.looking(c.words, params["qformer"], patches, c.vit.grid)
        tower = tower | {"layers": trajectory_start.quiet(tower["layers"])}
        return params | {"vit": tower, "qformer": former}, {}

    def forward(params, batch, rngs=None):
        """Of every target token; a slot's texts share its soft prompt and what T5 makes of it."""
        target = batch["target"]
        texts = target.reshape(target.shape[0], -1, target.shape[-1])
        said = shift_right(texts, c.t5.start_id)
        hidden, _ = network.apply({"params": params}, *asked(batch), said, rngs=rngs)
        table = network.apply({"params": params}, method="unembedding")
        nll = caption.token_nll(hidden, table, texts, c.vocabulary_chunks)
        return nll.reshape(target.shape)

    def losses(params, state, batch, rng, train):
        nll = forward(params, batch, {"dropout": rng} if train and c.qformer.dropout else None)
        return {"caption": caption.weighted(nll, batch["target_weight"])}, state, {}

    def caption_nll(params, batch):
        weight = batch["target_weight"]
        return (forward(params, batch) * weight).sum(-1) / jnp.maximum(weight.sum(-1), 1)

    def see(params, batch):
        return network.apply({"params": params}, batch["image"], method="encode")

    def converse(params, features, batch, room):
        _, said, ending = asked(batch)
        taken = turns(batch)
        place = jnp.arange(taken.shape[1])
        last = place == (taken * place).max(-1, keepdims=True)
        going_on = jnp.pad(batch["prompt"], ((0, 0), (0, 0), (0, 1)))  # one text, so one eos
        prompt = jnp.where(last[..., None], ending, going_on)
        arguments = features, said, prompt, taken, room
        return network.apply({"params": params}, *arguments, method="converse")

    def advance(params, cache, tokens):
        return network.apply({"params": params}, cache, tokens, method="advance")

    def generate(params, batch, rng, *, eos_id, config):
        room, go_on = config.max_new_tokens, functools.partial(advance, params)
        logits, cache = network.apply({"params": params}, *asked(batch), room, method="prefill")
        return decode.generate(logits, cache, go_on, rng, eos_id=eos_id, config=config)

    def embed(params, batch):
        image, said, _ = asked(batch)
        soft = network.apply({"params": params}, image, said, method="see")
        return soft.astype(jnp.float32).mean(-2)

    return System(
        init=init,
        losses=losses,
        loss_names=("caption",),
        predict={
            "caption_nll": caption_nll,
            "generate": generate,
            "embed": embed,
            "see": see,
            "converse": converse,
            "advance": advance,
        },
        sharding_rules=sharding_rules(c.network),
        vocabulary=c.t5.vocabulary,
        flops=lambda: flops.regionvlm(c, spec),
    )
