"""The whole chain, from a teacher to the tables and figures of an experiment.

    snakemake results/table1.csv --cores all                              # experiment `demo`
    snakemake results/table1.csv --cores all --config experiment=pocket   # params/pocket.yaml

A teacher's full-step trajectories are recorded (trajectories.smk), students are distilled from them (distill.smk), every
model answers every benchmark at every step budget (evaluate.smk), and scores become tables and figures (report.smk).
"""


report: "workflow/captions/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/teacher.smk"
include: "workflow/rules/trajectories.smk"
include: "workflow/rules/distill.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/slurm.smk"


rule all:
    """Make the default tables and figures."""
    default_target: True
    input:
        results(),
        METRICS,
        # In a fresh clone the figures are there, from git, and what they show is not.
        lambda w: [file for figure in E.figures.values() if not figure.on_request for file in material(figure)],


onsuccess:
    print(f"Finished. Tables and figures: results/{E.name}/. What is made: t3d status --experiment {E.name}")


onerror:
    cancel_jobs(log)
    print(
        f"Stopped. What each job said: {LOGS}/. Finished work is kept; what is left: t3d status --experiment {E.name}"
    )
