"""Measurements of a network: accuracy, probes, assignments, free-riding, locality, weights, memory."""

from forwardonly.measure.accuracy import evaluate, fit_readout
from forwardonly.measure.assignments import Assignment, assignments
from forwardonly.measure.free_riding import BlockDiagnosis, Diagnosis, diagnose
from forwardonly.measure.locality import Leak, leaks
from forwardonly.measure.metrics import Evaluation, LabelsEvaluation, NumbersEvaluation, TokensEvaluation
from forwardonly.measure.probe import Probe, probe
from forwardonly.measure.weights import Weights, weights
from forwardonly.system.memory import SavedBytes, peak_memory_bytes

__all__ = [
    "Assignment",
    "BlockDiagnosis",
    "Diagnosis",
    "Evaluation",
    "LabelsEvaluation",
    "Leak",
    "NumbersEvaluation",
    "Probe",
    "SavedBytes",
    "TokensEvaluation",
    "Weights",
    "assignments",
    "diagnose",
    "evaluate",
    "fit_readout",
    "leaks",
    "peak_memory_bytes",
    "probe",
    "weights",
]
