"""Stage 1 of `dvc.yaml`: the teacher, every prompt set, and the teacher's full-step trajectories."""


include: "../rules/common.smk"
include: "../rules/teacher.smk"
include: "../rules/trajectories.smk"


rule trajectories_stage:
    default_target: True
    input:
        stage("trajectories"),
