"""Stage 3 of `dvc.yaml`: answers and their scores, of models that are there."""


include: "../rules/common.smk"
include: "../rules/evaluate.smk"


rule scores_stage:
    default_target: True
    input:
        stage("scores"),
