"""Compiles kernels for GPUs where there is none: a script that runs every launcher, and what ptxas says of it.

``python compiled_kernels.py MODULE`` runs without the interpreter and with a driver that names GPUs and has none.
"""

import importlib
import os
import re
import subprocess
import sys

import torch

CAPABILITIES = (80, 90)


def compile_and_read(module, cache):
    """Names of the kernels of a module that compile, and the bytes of registers that each variant spills a thread."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "TRITON_DUMP_PTXAS_LOG": "1"}
    command = [sys.executable, __file__, module.__name__]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    spilled = [int(number) for number in re.findall(r"(\d+) bytes spill stores", output)]
    return set(re.findall(r"compiles (\w+)", result.stdout)), spilled


def compile_instead_of_running():
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Driver:
        def __init__(self, capability):
            self.capability = capability

        def get_current_device(self):
            return self.capability

        def get_current_stream(self, device):
            return 0

        def get_current_target(self):
            return GPUTarget("cuda", self.capability, 32)

    run = JITFunction.run

    def compile_only(self, *arguments, grid, warmup, **options):
        for capability in CAPABILITIES:
            print("compiles", self.__name__, flush=True)
            driver.set_active(Driver(capability))
            run(self, *arguments, grid=grid, warmup=True, **options)

    JITFunction.run = compile_only


def column_means(kernels, dtype, batch, heads, tokens, head_dim, log_sum_exp=None):
    query, key, _ = torch.empty(batch, tokens, 3, heads, head_dim, dtype=dtype).permute(2, 0, 3, 1, 4)
    for weights in (None, torch.empty(batch, heads, tokens)):
        kernels.column_means(query, key, 0.125, log_sum_exp, weights)


def reduction(kernels, dtype, batch, old_windows, patches, keep, windows, hidden):
    tokens = torch.empty(batch, 1 + patches + old_windows**2, hidden, dtype=dtype)
    scores, positions = torch.empty(batch, tokens.shape[1])[:, 1 : 1 + patches], torch.arange(patches)
    counts, embeddings = torch.empty(batch, old_windows**2).long(), torch.empty(windows**2, hidden, dtype=dtype)
    old_windows, windows = [old_windows] * 2, [windows] * 2
    reduced, _, new_counts, destinations = kernels.reduce_tokens(
        tokens, scores, positions.expand(batch, -1), counts, (14, 14), 1, old_windows, keep, windows, embeddings
    )
    kernels.reduce_tokens_backward(reduced, destinations, counts, new_counts, 1 + keep)
    kernels.token_means(tokens)
    kernels.add_residual(tokens, tokens, tokens[:, 0])


def similarity(kernels, dtype, batch, patches, keep, hidden, channels, joined_before):
    tokens = torch.empty(batch, 1 + patches, hidden, dtype=dtype)
    directions = kernels.feature_directions(torch.empty(batch, 1 + patches, channels)[:, 1:])
    scores = kernels.distinctness(directions, torch.empty(batch, 1 + patches)[:, 1:])
    positions, sizes, sources = torch.arange(patches).expand(batch, -1), None, None
    if joined_before:
        sizes, sources = torch.empty(batch, patches).long(), torch.empty(batch, 2 * patches).long()
    reduced, _, new_sizes, _, destinations = kernels.fold_similar(
        tokens, scores, directions, positions, sizes, sources, 1, keep
    )
    kernels.fold_similar_backward(reduced, destinations, sizes, new_sizes, 1)


def run_all(kernels):
    if hasattr(kernels, "fold_similar"):
        similarity(kernels, torch.bfloat16, 256, 196, 151, 768, 64 + 768, False)
        similarity(kernels, torch.float32, 1, 1024, 788, 1536, 128 + 1536, True)
        return
    for dtype in (torch.bfloat16, torch.float32):
        column_means(kernels, dtype, 64, 12, 197, 64)
        column_means(kernels, dtype, 2, 12, 577, 64)
    column_means(kernels, torch.bfloat16, 1, 1, 1, 8)
    column_means(kernels, torch.bfloat16, 2, 12, 577, 64, torch.empty(2, 12, 577))
    reduction(kernels, torch.bfloat16, 256, 0, 196, 137, 2, 768)
    reduction(kernels, torch.float32, 1, 8, 100, 1, 8, 192)


if __name__ == "__main__":
    compile_instead_of_running()
    run_all(importlib.import_module(sys.argv[1]))
