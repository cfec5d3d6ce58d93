"""The parameters of an experiment: typed models, the only reader of `params/*.yaml`.

An experiment file says *what* is made: teachers, prompt sets, trajectories, students, benchmarks, tables and figures.
`experiment.py` is the whole of it, `data.py`, `teachers.py`, `students.py` and `reporting.py` are its parts,
`reader.py` reads it.
`params/schema.json` is generated from here (`python -m t3d.params > params/schema.json`) and a test catches drift.
"""

from t3d.params.base import AUTOREGRESSIVE, NAME, Budget, Sampling, read_budget
from t3d.params.data import Columns, Difficulty, Generations, PromptSet, Source, Trajectories
from t3d.params.experiment import Experiment, Product
from t3d.params.reader import find, load, schema
from t3d.params.reporting import (
    AccuracyFigure,
    AccuracyTable,
    Benchmark,
    CommitFigure,
    Comparison,
    DecodingTable,
    FactorisationFigure,
    ParallelismTable,
    Row,
    ServedComparison,
    Table,
    TrainingFigure,
)
from t3d.params.students import ExampleOptions, Lora, Objective, Optimizer, States, Student
from t3d.params.teachers import Conversion, PocketModel, Pretraining, Teacher
