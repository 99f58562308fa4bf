"""Run in a process of its own by test_triton.py: every Triton kernel against PyTorch, under Triton's interpreter."""

import torch

from bytebound.measure import triton_kernels as kernels

CORES = 2


def main() -> None:
    torch.manual_seed(0)
    n = 5 * kernels.TILE + 100  # the last, partial tile is left out
    x, y, z = torch.rand(n), torch.rand(n), torch.zeros(n)
    whole = 5 * kernels.TILE
    out = torch.zeros(CORES * kernels.PROGRAMS_PER_CORE)
    for passes in (1, 3):
        assert kernels.read(x, out, cores=CORES, passes=passes) == whole * 4 * passes
        torch.testing.assert_close(out.double().sum(), passes * x[:whole].double().sum(), rtol=1e-5, atol=0)
    assert kernels.write(z, cores=CORES, value=2.0) == whole * 4
    assert bool((z[:whole] == 2).all())
    assert bool((z[whole:] == 0).all())
    assert kernels.copy(x, z, cores=CORES) == whole * 8
    assert bool((z[:whole] == x[:whole]).all())
    assert bool((z[whole:] == 0).all())
    assert kernels.triad(x, y, z, cores=CORES, scale=3.0) == whole * 12
    torch.testing.assert_close(z[:whole], x[:whole] + 3 * y[:whole])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        weights, vector, product = torch.randn(8, 512).to(dtype), torch.randn(512).to(dtype), torch.zeros(8)
        assert kernels.matvec(weights, vector, product, step=256) == weights.numel() * weights.element_size()
        torch.testing.assert_close(product, weights.float() @ vector.float(), rtol=1e-3, atol=1e-3)
    for batch, heads, group, tokens, size in ((2, 2, 4, 100, 32), (1, 1, 1, 7, 16), (1, 2, 3, 260, 64)):
        query = torch.randn(batch, heads * group, 1, size)
        key, value = (torch.randn(batch, heads, tokens, size) for _ in range(2))
        wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        torch.testing.assert_close(
            kernels.decode_attention(query, key, value, cores=CORES), wanted, rtol=1e-3, atol=1e-4
        )
    print("every kernel agrees")  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main()
