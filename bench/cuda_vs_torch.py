"""Times the CUDA kernels beside PyTorch's own ops of the same shapes, in one run on one GPU.

usage: cuda_vs_torch.py --bench build/bin/cuda_kernels_bench        prints a table in Markdown
"""

import argparse
import json
import statistics
import subprocess

import torch
import torch.nn.functional as F

WARM_UPS, REPEATS = 5, 30


def time_us(run):
    for _ in range(WARM_UPS):
        run()
    times = []
    for _ in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return 1e3 * statistics.median(times)


def halves(*shape):
    return torch.empty(*shape, dtype=torch.bfloat16, device="cuda").uniform_(-1, 1)


def backward_us(output, inputs):
    gradient = torch.rand_like(output)
    return time_us(lambda: torch.autograd.grad(output, inputs, gradient, retain_graph=True))


def norms():
    x, w = halves(32768, 2048).requires_grad_(), halves(2048).requires_grad_()
    with torch.no_grad():
        yield "rmsnorm 32768x2048", time_us(lambda: F.rms_norm(x, (2048,), w, 1e-5))
    y = F.rms_norm(x, (2048,), w, 1e-5)
    yield "rmsnorm backward 32768x2048", backward_us(y, [x])
    gate, up = halves(16384, 8192), halves(16384, 8192)
    yield "swiglu 16384x8192", time_us(lambda: F.silu(gate) * up)
    yield "dropout 16384x8192", time_us(lambda: F.dropout(gate, 0.1))


def optimizer():
    p = torch.zeros(134_515_008, device="cuda", requires_grad=True)
    p.grad = torch.zeros_like(p)
    adamw = torch.optim.AdamW([p], fused=True)
    yield "adamw 134.5M", time_us(adamw.step)
    g = p.grad
    yield "sum of squares 134.5M", time_us(lambda: torch.linalg.vector_norm(g))
    yield "convert 134.5M", time_us(lambda: g.to(torch.bfloat16))


def embeddings():
    table = halves(49152, 2048).requires_grad_()
    ids = torch.randint(0, 997, (16384,), device="cuda")
    ids[::4] = torch.randint(0, 49152, (4096,), device="cuda")
    with torch.no_grad():
        yield "embedding 16384x2048", time_us(lambda: F.embedding(ids, table))
    yield "embedding gradient 16384x2048", backward_us(F.embedding(ids, table), [table])


def linears(m, n, k):
    x, w, y = halves(m, k), halves(n, k), halves(m, n)
    shape = f"{m}x{n}x{k}"
    yield f"linear {shape}", time_us(lambda: F.linear(x, w))
    yield f"linear backward {shape}", time_us(lambda: y @ w)
    yield f"linear gradient {shape}", time_us(lambda: y.t() @ x)


def attention(t, heads, kv_heads, d, segment):
    name = f"{t} in segments of {segment}, {heads}/{kv_heads} heads of {d}"
    batch = t // segment
    q = halves(batch, heads, segment, d).requires_grad_()
    k = halves(batch, kv_heads, segment, d).requires_grad_()
    v = halves(batch, kv_heads, segment, d).requires_grad_()

    def run():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        with torch.no_grad():
            yield f"attention {name}", time_us(run)
        yield f"attention backward {name}", backward_us(run(), [q, k, v])


def heads(m, vocab, k):
    h, w = halves(m, k).requires_grad_(), halves(vocab, k).requires_grad_()
    targets = torch.arange(m, device="cuda") * 7919 % vocab
    shape = f"{m}x{vocab}x{k}"
    with torch.no_grad():
        yield (f"head loss {shape}",
               time_us(lambda: F.cross_entropy(F.linear(h, w).float(), targets)))

    def step():
        loss = F.cross_entropy(F.linear(h, w).float(), targets, reduction="sum")
        torch.autograd.grad(loss, [h])

    yield f"head loss and its way back {shape}", time_us(step)


def torch_times():
    yield from norms()
    yield from optimizer()
    yield from embeddings()
    yield from linears(8192, 4096, 4096)
    yield from linears(1, 4096, 4096)
    yield from attention(8192, 32, 8, 128, 8192)
    yield from attention(8192, 9, 3, 64, 8192)
    yield from attention(32768, 9, 3, 64, 2048)
    yield from attention(16384, 32, 8, 128, 2048)
    yield from heads(8192, 49152, 576)
    yield from heads(8192, 128256, 4096)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", required=True)
    args = parser.parse_args()
    lines = subprocess.run([args.bench], check=True, capture_output=True, text=True).stdout
    ours = [json.loads(line) for line in lines.splitlines()]
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    theirs = {}
    for name, us in torch_times():
        theirs[name] = us
        torch.cuda.empty_cache()
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")
    print("| op | µs | GB/s | TFLOP/s | PyTorch µs | PyTorch's time over ours |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in ours:
        us = theirs.get(row["op"])
        print(f"| {row['op']} | {row['us']:.1f} | {row.get('GBps', '')} | {row.get('TFLOPs', '')} | "
              + (f"{us:.1f} | {us / row['us']:.2f} |" if us else "| |"))


if __name__ == "__main__":
    main()
