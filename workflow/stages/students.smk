"""Stage 2 of `dvc.yaml`: students, from trajectories that are there."""


include: "../rules/common.smk"
include: "../rules/distill.smk"


rule students_stage:
    default_target: True
    input:
        stage("students"),
