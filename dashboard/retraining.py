"""Retraining one network: the form that starts a job, and what has become of every job, kept true while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.network import show_error
from search_space.errors import UserError
from studies import jobs
from studies.charts import CONFIG, curve_figure, per_cent
from studies.jobs import Job, State
from studies.records import StudyRecords
from trainers.runs import Run
