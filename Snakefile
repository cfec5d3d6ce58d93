"""The whole chain, from a teacher to the tables and figures of an experiment.

    snakemake results/table1.csv --cores all                              # experiment `demo`
    snakemake results/table1.csv --cores all --config experiment=pocket   # params/pocket.yaml

A teacher's full-step trajectories are recorded (trajectories.smk), students are distilled from them (distill.smk), every
model answers every benchmark at every step budget (evaluate.smk), and scores become tables and figures (report.smk).
"""

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from t3d import params
from t3d.errors import T3DError

min_version("9.27")

try:
    E = params.find(config.get("experiment", "demo"))
except T3DError as error:
    raise WorkflowError(str(error)) from error

DATA = f"data/{E.name}"
LOGS = f"logs/{E.name}"
# The rules run in the environment that calls Snakemake; their `conda:` line says which file describes it.
# A CPU job is one thread: two small jobs side by side do more than one job on two cores.
CORES = 8 if E.gpus else 1


wildcard_constraints:
    name="[^/]+",
    shard=r"\d+-of-\d+",
    budget=r"b\d+[st][\d.]+",


include: "workflow/rules/common.smk"
include: "workflow/rules/teacher.smk"
include: "workflow/rules/trajectories.smk"
include: "workflow/rules/distill.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        expand("results/{table}.csv", table=[name for name, table in E.tables.items() if not table.on_request]),
        expand(
            f"results/{E.name}/figures/{{figure}}.pdf",
            figure=[name for name, f in E.figures.items() if not f.on_request],
        ),
        # In a fresh clone the figures are there, from git, and what they show is not.
        [material_of(figure) for figure in E.figures.values() if not figure.on_request],
