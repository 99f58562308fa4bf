"""Block sizes of ggml tensor types, by their number in GGUF files."""

from __future__ import annotations

from typing import Final

GGML_TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("fp32", 1, 4),
    1: ("fp16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210),
    15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("uint8", 1, 1),
    25: ("int16", 1, 2),
    26: ("int32", 1, 4),
    27: ("int64", 1, 8),
    28: ("fp64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
}
"""Format name, values per block and bytes per block by ggml type. Source: ggml.h and ggml-common.h of llama.cpp."""

REFUSED_TYPES: Final[dict[int, str]] = {
    4: "Q4_2, removed from ggml",
    5: "Q4_3, removed from ggml",
    9: "Q8_1, an intermediate that is never stored",
    31: "Q4_0_4_4, removed from ggml",
    32: "Q4_0_4_8, removed from ggml",
    33: "Q4_0_8_8, removed from ggml",
    36: "IQ4_NL_4_4, removed from ggml",
    37: "IQ4_NL_4_8, removed from ggml",
    38: "IQ4_NL_8_8, removed from ggml",
    40: "NVFP4, whose blocks of 64 values have no record here",
    41: "Q1_0, which has no record here",
}
