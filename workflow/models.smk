"""What models make, from teachers to scores, without tables and figures: stage `models` of `dvc.yaml`."""


include: "rules/common.smk"
include: "rules/teacher.smk"
include: "rules/trajectories.smk"
include: "rules/distill.smk"
include: "rules/evaluate.smk"


rule models:
    """Make everything that models make for the default tables and figures."""
    default_target: True
    input:
        [manifest(artefact) for artefact in lineage.artefacts_of(E, lineage.targets(E).values())],
