"""Do the latency intervals tell the truth? Repeats one measured job and counts.

    make serve                                   # in another terminal
    python benchmarks/latency_intervals.py --model squeezenet.onnx --data val.zip --preprocess '{…}'

The limit: of ten repeats at least 8 intervals contain the overall median speed-up, and at least 9 A/A
intervals contain 1. Exits 1 when that does not hold.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import httpx

RECIPE = {"method": "static_int8"}
Json = dict[str, Any]


def main() -> int:
    """Upload once, measure many times, print the counts."""
    arguments = _arguments()
    headers = {"Authorization": f"Bearer {os.environ.get('FEWBITS_KEY') or _local_key()}"}
    with httpx.Client(base_url=arguments.url, headers=headers, timeout=700) as client:
        version = _upload(client, "/v1/models", arguments.model, {})
        data = _upload(client, "/v1/datasets", arguments.data, {"preprocess": arguments.preprocess})
        measured = [_measure(client, version, data, number) for number in range(arguments.repeats)]
    return _verdict([latency for latency in measured if latency])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preprocess", default="{}")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--url", default=os.environ.get("FEWBITS_URL", "http://127.0.0.1:8000"))
    return parser.parse_args()


def _local_key() -> str:
    return (Path(os.environ.get("FEWBITS_HOME", "var")) / "admin.key").read_text(encoding="utf-8").strip()


def _upload(client: httpx.Client, path: str, file: Path, fields: dict[str, str]) -> str:
    with file.open("rb") as stream:
        answer = client.post(path, files={"file": stream}, data=fields, headers={"Prefer": "wait=120"})
    return str(_json(answer)["id"])


def _measure(client: httpx.Client, version: str, data: str, number: int) -> Json | None:
    """One job's latency of the static candidate; None where the job gave none."""
    spec = {
        "version": version,
        "evaluation": {"dataset": data},
        "recipes": [RECIPE],
        "reuse": "never",
    }
    job = _json(client.post("/v1/jobs", json=spec))
    while job["finished_at"] is None:
        job = _json(client.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=600"}))
    candidate = _json(client.get(f"/v1/jobs/{job['id']}/candidates"))["items"][0]
    latency: Json | None = candidate["latency"]
    print(number, _line(latency) if latency else candidate["notes"][-1], flush=True)
    return latency


def _json(answer: httpx.Response) -> Json:
    if answer.is_error:
        sys.exit(f"{answer.request.url}: {answer.status_code} {answer.text}")
    value: Json = json.loads(answer.text)
    return value


def _line(latency: Json) -> str:
    (low, high), (quiet, loud) = latency["ci"], latency["noise"]
    return (
        f"speed-up {latency['speedup']:.3f} ({low:.3f} to {high:.3f}), A/A {quiet:.3f} to {loud:.3f}, "
        f"{latency['rounds']} rounds, float p50 {latency['baseline_p50_ms']:.2f} ms"
    )


def _verdict(measured: list[Json]) -> int:
    middle = statistics.median(latency["speedup"] for latency in measured)
    covered = sum(latency["ci"][0] <= middle <= latency["ci"][1] for latency in measured)
    quiet = sum(latency["noise"][0] <= 1 <= latency["noise"][1] for latency in measured)
    n = len(measured)
    print(f"overall median {middle:.3f}: in {covered} of {n} intervals (limit 80 %)")
    print(f"A/A contains 1 in {quiet} of {n} (limit 90 %)")
    return int(covered < 0.8 * n or quiet < 0.9 * n)


if __name__ == "__main__":
    sys.exit(main())
