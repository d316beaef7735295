"""Collectives of programs whose collectives are known, compiled for eight CPU devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from regionjax import hlo


def text_of(each, rows, columns):
    """HLO of `each` under shard_map, for rows that are shared out to eight devices."""
    mesh = Mesh(np.array(jax.devices()).reshape(8), ("x",))
    run = jax.shard_map(each, mesh=mesh, in_specs=P("x"), out_specs=P("x"), check_vma=False)
    return jax.jit(run).lower(jnp.zeros((rows, columns))).compile().as_text()


def test_kinds_and_bytes():
    def each(x):  # [2, 16] of [16, 16]
        gathered = jax.lax.all_gather(x, "x", tiled=True)
        scattered = jax.lax.psum_scatter(jnp.sin(gathered), "x", tiled=True)
        return jax.lax.all_to_all(scattered, "x", 1, 1, tiled=True)

    found = hlo.collectives(text_of(each, 16, 16))
    whole = 16 * 16 * 4
    assert (found["all-gather"].count, found["all-gather"].bytes) == (1, whole)
    assert (found["reduce-scatter"].count, found["reduce-scatter"].bytes) == (1, whole)
    assert (found["all-to-all"].count, found["all-to-all"].bytes) == (1, 2 * 16 * 4)


def test_loops_count_their_turns():
    def inner(x, _):
        return jax.lax.psum(jnp.sin(x), "x"), None

    def outer(x, _):
        return jax.lax.scan(inner, x, None, length=7)[0], None

    def each(x):  # [1, 32]
        return jax.lax.scan(outer, x, None, length=3)[0]

    found = hlo.collectives(text_of(each, 8, 32))
    assert found == {"all-reduce": hlo.Collectives(21, 21 * 32 * 4, 0)}


LOOP = """
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %g = f32[4]{0} get-tuple-element(%p), index=1
  %sum = f32[4]{0:T(128)} all-reduce(%g), channel_id=1, to_apply=%add
  %again = f32[4]{0} fusion(%g), kind=kCustom, calls=%started
}

%started (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  ROOT %sum.2 = f32[4]{0:T(128)S(1)} all-reduce(%q), channel_id=1, to_apply=%add
}

%condition (p: (s32[], f32[4])) -> pred[] {
  %bound = s32[] constant(18)
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %begin = s32[] START
  %begin.2 = s32[] copy(%begin)
  %carry = (s32[], f32[4]{0}) tuple(%begin.2, %a)
  ROOT %loop = (s32[], f32[4]{0}) while(%carry), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(
    ("start", "count", "once"), [("constant(0)", 18, 0), ("constant(2)", 16, 0), ("rng()", 1, 1)]
)
def test_turns_as_the_tpu_compiler_writes_them(start, count, once):
    # A collective that is split over several fusions shows one channel and is one collective.
    found = hlo.collectives(LOOP.replace("START", start))
    assert found["all-reduce"] == hlo.Collectives(count, count * 16, once)


def test_traffic_between_slices_and_fused_scatters():
    text = """
%all-reduce-scatter.3 (input: bf16[64,8]) -> bf16[8,8] {
  %input = bf16[64,8]{1,0} parameter(0)
  %all-reduce.1 = bf16[64,8]{1,0} all-reduce(%input), channel_id=4, to_apply=%add
  ROOT %mine = bf16[8,8]{1,0} dynamic-slice(%all-reduce.1), dynamic_slice_sizes={8,8}
}

ENTRY %main (a: bf16[64,8]) -> bf16[8,8] {
  %a = bf16[64,8]{1,0} parameter(0)
  %mine = bf16[8,8]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.3
  %send = (bf16[8,8]{1,0}, u32[], token[]) send(%mine, %after), channel_id=2, \
frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
}
"""
    assert hlo.collectives(text) == {
        "reduce-scatter": hlo.Collectives(1, 64 * 8 * 2),
        "between slices: all-reduce": hlo.Collectives(1, 8 * 8 * 2),
    }
