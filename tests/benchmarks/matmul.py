"""The machine's float32 matrix-product rate, printed in GFLOP/s: `python -m tests.benchmarks.matmul {jax,torch}`.

The best of several products of two square matrices; a process of its own, so that no training shares its threads.
"""

import sys
import time


def rate(library, size=2048, repeats=20):
    """GFLOP/s of the fastest of `repeats` products of two [size, size] float32 matrices."""
    if library == "jax":
        import jax
        import jax.numpy as jnp

        a, b = jax.random.normal(jax.random.key(0), (2, size, size), jnp.float32)
        product = jax.jit(lambda a, b: jnp.dot(a, b, precision="highest"))

        def run():
            product(a, b).block_until_ready()
    else:
        import torch

        a, b = torch.randn(2, size, size)

        def run():
            torch.mm(a, b)

    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[2:]) / 1e9


if __name__ == "__main__":
    print(rate(sys.argv[1] if len(sys.argv) > 1 else "jax"))
