"""Run in a process of its own by test_triton.py: compile every Triton kernel for real GPUs, which needs none.

Prints a line per kernel and target: how many wide (16-byte) loads and stores from global memory it has, and of any width.
"""

import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bytebound.measure import triton_kernels as kernels

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TILE = {"TILE": kernels.TILE}
ATTEND = {"GROUP": 4, "PAD": 16, "SIZE": 128, "STEP": 64}
KERNELS = {
    "read": (kernels._read, "*fp32 *fp32 i32 i32", TILE),
    "write": (kernels._write, "*fp32 i32 fp32", TILE),
    "copy": (kernels._copy, "*fp32 *fp32 i32", TILE),
    "triad": (kernels._triad, "*fp32 *fp32 *fp32 fp32 i32", TILE),
    "matvec": (kernels._matvec, "*bf16 *bf16 *fp32 i32", {"ROWS": 4, "STEP": 1024}),
    "attend": (kernels._attend, "*bf16 *bf16 *bf16 *fp32 *fp32 *fp32 i32 i32 fp32", ATTEND),
    "join": (kernels._join, "*fp32 *fp32 *fp32 *bf16 i32", {"GROUP": 4, "PAD": 16, "SIZE": 128}),
}
WIDE = re.compile(
    r"(?:ld|st)\.global\S*\.v4\.\w*32|(?:ld|st)\.global\S*\.v2\.\w*64|cp\.async\S*|global_(?:load|store)_dwordx4|buffer_(?:load|store)_dwordx4"
)
ANY = re.compile(r"(?:ld|st)\.global|cp\.async\.c|global_(?:load|store)|buffer_(?:load|store)")


def compiled(name: str, target: GPUTarget) -> str:
    """Return the assembly of kernel ``name``; pointers and sizes are multiples of 16, as at run time."""
    kernel, types, constants = KERNELS[name]
    names = kernel.arg_names
    signature = dict(zip(names, [*types.split(), *["constexpr"] * len(constants)], strict=True))
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, kind in enumerate(signature.values())
        if kind.startswith("*") or names[place] == "columns"
    }
    fixed = {(names.index(key),): value for key, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=aligned)
    done = triton.compile(source, target=target, options={"num_warps": kernels.WARPS})
    return done.asm["ptx" if target.backend == "cuda" else "amdgcn"]


def main() -> None:
    for label in sys.argv[1:] or TARGETS:
        for name in KERNELS:
            text = compiled(name, TARGETS[label])
            print(label, name, len(WIDE.findall(text)), len(ANY.findall(text)))  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main()
