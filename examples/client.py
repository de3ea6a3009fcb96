"""Quantize a model from Python and see it happen: start `make serve`, then give this a MODEL and its DATA."""

import sys

from fewbits import Client

SPEC = {
    "recipes": [{"method": "static_int8"}],
    "benchmark": {"max_seconds": 10},
    "gate": {"max_size_ratio": 0.5},
}


def main(model: str, data: str, preprocess: str = "unit") -> int:
    """Submit a job, print its events, and bring the best model here; 1 when a pipeline should stop."""
    with Client() as client:
        job = client.submit(model, data, preprocess=preprocess, spec=SPEC)
        for event in client.watch(job.id):
            print(f"{event.progress or 0:4.0%}  {event.type}", flush=True)
        result = client.result(job.id)
        for candidate in result.candidates:
            print(candidate.name, candidate.size, candidate.accuracy, sep="\n  ")
        if result.best:
            print("Best model:", client.download(result.best.id, "best.onnx"))
    return int(result.verdict.blocking)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
