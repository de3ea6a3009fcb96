"""The words for states, phases, kinds of steps and scopes; what a request or an answer may say."""

from typing import Literal

UploadState = Literal["receiving", "ready", "failed", "expired"]
InputState = Literal["inspecting", "ready", "rejected"]  # of versions and datasets
JobState = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
JobPhase = Literal["preparing", "building", "benchmarking", "reporting"]
JobConclusion = Literal["pass", "fail", "inconclusive", "none"]
CandidateState = Literal["planned", "building", "built", "measured", "failed", "canceled"]
StepState = Literal["queued", "running", "done", "failed", "canceled"]
StepKind = Literal["prepare", "build", "benchmark", "report"]  # of a job
PreparedKind = Literal["model", "statistics", "calibration_order", "reference", "feeds"]
EvidenceKind = Literal["outcomes", "flips", "layers"]
ArtifactKind = Literal[PreparedKind, "candidate", EvidenceKind]
LogLevel = Literal["info", "error", "printed", "note"]  # of a line in a job's log
Scope = Literal["read", "write", "admin", "operator"]
