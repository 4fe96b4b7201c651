"""Bytes and cycles that are counted in the text of a program: by hand, and for programs that JAX compiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjt.experiment import program_text
from fjt.training import placement

TEXT = """HloModule jit_step, is_scheduled=true

%fused (p: f32[8,4]) -> bf16[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %c = bf16[8,4]{1,0} convert(%p), backend_config={"estimated_cycles":"999"}
}

%all-reduce-scatter.1 (p: bf16[64,4]) -> bf16[8,4] {
  %p = bf16[64,4]{1,0} parameter(0)
  %whole = bf16[64,4]{1,0} all-reduce(%p), channel_id=7, replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %own = bf16[8,4]{1,0} dynamic-slice(%whole, %i, %zero), dynamic_slice_sizes={8,4}
}

%begin (p: s8[3]) -> s8[24] {
  ROOT %gathered.1 = s8[24]{0} all-gather(%p), channel_id=8, dimensions={0}
}

%goes_on (p: s8[3]) -> s8[24] {
  ROOT %gathered.2 = s8[24]{0} all-gather(%p), channel_id=8, dimensions={0}
}

%body (s: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %s = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%s), index=1
  %sum = f32[8,4]{1,0:T(8,128)} all-reduce(%x), channel_id=1, to_apply=%add
  %f = f32[8,4]{1,0} fusion(%sum), kind=kLoop, calls=%fused, backend_config={"window":1,"estimated_cycles":"100"}
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%x, %f)
}

ENTRY %main.1 (a: f32[8,4], b: bf16[2,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = bf16[2,4]{1,0} parameter(1)
  %w = (s32[], f32[8,4]{1,0}) while(%t0), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %both = (bf16[2,4]{1,0:T(8,128)(2,1)}, f32[]{:T(128)}) all-reduce(%b, %z), channel_id=2, to_apply=%add
  %start = (bf16[2,4]{1,0}, bf16[16,4]{1,0}) all-gather-start(%b), dimensions={0}
  %done = bf16[16,4]{1,0} all-gather-done(%start)
  %moved = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%v), source_target_pairs={{0,1}}
  %slice = bf16[8,4]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %part.1 = s8[24]{0} fusion(%h), kind=kCustom, calls=%begin
  %part.2 = s8[24]{0} fusion(%h), kind=kCustom, calls=%goes_on
  %rs = ((f32[1024]{0}), f32[256]{0}) reduce-scatter-start(%q), channel_id=9, replica_groups={{0,1,2,3},{4,5,6,7}}
  %aa = ((f16[10]{0}, f16[6]{0}), (f16[10]{0}, f16[6]{0}), u32[]) all-to-all-start(%q, %u), channel_id=10
  %odd = f8e4m3fn[5]{0} all-to-all(%o), channel_id=11
  %k = f32[8,4]{1,0} fusion(%a), kind=kOutput, calls=%fused, metadata={op_name="jit(step)/dot"}, \
backend_config={"estimated_cycles":"40"}
  ROOT %r = f32[8,4]{1,0} get-tuple-element(%w), index=1
}
"""


def test_what_is_sent_counts_whole_arrays_once_and_in_each_round_of_a_loop():
    assert program_text.sent(TEXT) == {
        ("all-reduce", "float32"): 3 * 8 * 4 * 4 + 4,
        ("all-reduce", "bfloat16"): 2 * 4 * 2,
        ("all-gather", "bfloat16"): 16 * 4 * 2,
        ("collective-permute", "float32"): 8 * 4,
        ("reduce-scatter", "bfloat16"): 64 * 4 * 2,
        ("all-gather", "int8"): 24,
        ("reduce-scatter", "float32"): 1024 * 4,
        ("all-to-all", "float16"): 16 * 2,
        ("all-to-all", "f8e4m3fn"): 5,
    }


def test_cycles_count_each_round_of_a_loop_and_fused_operations_once():
    assert program_text.cycles(TEXT) == 3 * 100 + 40
    assert program_text.costs(TEXT) == {"(f)": 300, "jit(step)/dot": 40}


@pytest.mark.parametrize("rounds", [1, 5])
def test_what_a_compiled_program_sends(rounds):
    mesh = placement.make_mesh(4)
    whole, divided = placement.replicated(mesh), placement.by_group(mesh)

    def step(w, x):
        total = jax.lax.scan(lambda s, part: (s + jnp.sum(part @ w), None), jnp.float32(0), x.swapaxes(0, 1))[0]
        return total, jnp.zeros(7, jnp.bfloat16) + jnp.sum(x).astype(jnp.bfloat16)

    w = jax.ShapeDtypeStruct((16, 16), np.float32, sharding=whole)
    x = jax.ShapeDtypeStruct((8, rounds, 3, 16), np.float32, sharding=divided)
    grad = jax.jit(jax.grad(lambda w, x: step(w, x)[0]), out_shardings=whole)
    sent = program_text.sent(grad.lower(w, x).compile().as_text())
    assert set(sent) == {("all-reduce", "float32")} and sent["all-reduce", "float32"] in (1024, rounds * 1024)
    assert program_text.cycles(grad.lower(w, x).compile().as_text()) == 0  # a CPU's compiler estimates none
