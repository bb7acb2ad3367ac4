"""Reports of all experiments by name, made from the data in their results.json."""

from collections.abc import Callable, Mapping
from typing import Any

from impala_mi.reproductions.expressivity import expressivity_report
from impala_mi.reproductions.interference import interference_report
from impala_mi.reproductions.language_model import language_model_report
from impala_mi.reproductions.multitask import multitask_report
from impala_mi.reproductions.neural_process import neural_process_report
from impala_mi.reproductions.regression import regression_report
from impala_mi.reproductions.study_report import StudyReport

REPORTS: Mapping[str, Callable[[Mapping[str, Any]], StudyReport]] = {
    "expressivity": expressivity_report.report_from_data,
    "regression": regression_report.report_from_data,
    "neural-process": neural_process_report.report_from_data,
    "language-model": language_model_report.report_from_data,
    "multitask": multitask_report.report_from_data,
    "interference": interference_report.report_from_data,
}
"""Makers of reports by experiment."""
