"""The engine: examine, quantize and measure ONNX models. Knows no database, no HTTP and no Celery."""

import os

# As many threads as a host has cores would add in another order on each: the last bits of what corrections
# and few bits compute, and so a result's bytes, would hang on the host. OpenBLAS reads it when it is loaded.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
