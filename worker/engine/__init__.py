"""The engine: examine, quantize and measure ONNX models. Knows no database, no HTTP and no Celery."""
