"""Run a float model over calibration samples once, and keep what every range method needs."""

from worker.engine.calibrate.file import load_statistics, save_statistics
from worker.engine.calibrate.observers import Extent, Statistics, merge
from worker.engine.calibrate.ranges import ranges
from worker.engine.calibrate.run import collect

__all__ = ["Extent", "Statistics", "collect", "load_statistics", "merge", "ranges", "save_statistics"]
