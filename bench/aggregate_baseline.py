"""What Flower's aggregation costs, on numpy arrays that are in memory already. One line of JSON.

  python bench/aggregate_baseline.py [--sites 4] [--parameters 39976960]

"numpy_sum" is the loop `sum += weight * update` in float32, in place, the least that such an
aggregation does; "flower_aggregate" is flwr.server.strategy.aggregate.aggregate itself, null where
flwr is not installed. Million parameters a second, the best of three.
"""

import argparse
import json
import sys
import time


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--parameters", type=int, default=39976960)
    args = parser.parse_args()
    try:
        import numpy as np
    except ImportError:
        print(f"aggregate_baseline: skipped, {sys.executable} has no numpy", file=sys.stderr)
        return

    random = np.random.default_rng(1)
    # The tensors of a 7B model's LoRA are some hundred thousand parameters each.
    tensors = 448
    size = args.parameters // tensors
    updates = [
        [random.standard_normal(size, dtype=np.float32) for _ in range(tensors)]
        for _ in range(args.sites)
    ]
    weights = [1000 + site for site in range(args.sites)]
    total = sum(weights)

    def numpy_sum():
        out = [np.zeros(size, np.float32) for _ in range(tensors)]
        scratch = np.empty(size, np.float32)
        for update, weight in zip(updates, weights):
            share = np.float32(weight / total)
            for into, layer in zip(out, update):
                np.multiply(layer, share, out=scratch)
                np.add(into, scratch, out=into)
        return out

    def rate(run):
        best = 0.0
        for _ in range(3):
            start = time.perf_counter()
            run()
            best = max(best, args.sites * size * tensors / (time.perf_counter() - start))
        return round(best / 1e6, 1)

    record = {"bench": "aggregate_baseline", "sites": args.sites, "numpy": np.__version__}
    record["numpy_sum"] = rate(numpy_sum)
    try:
        import flwr
        from flwr.server.strategy.aggregate import aggregate
    except ImportError:
        record["flower"] = record["flower_aggregate"] = None
    else:
        record["flower"] = flwr.__version__
        record["flower_aggregate"] = rate(lambda: aggregate(list(zip(updates, weights))))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
