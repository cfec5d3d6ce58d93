"""Tables and figures alone, from scores that are there: what a reviewer runs. No model, no GPU.

    t3d pull scores
    snakemake -s workflow/report.smk --cores all --forceall
"""


include: "rules/common.smk"


def material(product):
    """Manifests of what a table or figure is made from; nothing here can make one that is missing."""
    artefacts = lineage.material_of(E, product)
    missing = [manifest(artefact) for artefact in artefacts if not Path(manifest(artefact)).is_file()]
    if missing:
        stages = sorted({lineage.stage_of(artefact) for artefact in artefacts})
        raise WorkflowError(
            f"{len(missing)} of the {len(artefacts)} files it is made from are not here: {', '.join(missing[:3])}"
            f"{', ...' if missing[3:] else ''}. Fetch them: t3d pull {stages[0]} --experiment {E.name}"
        )
    return [manifest(artefact) for artefact in artefacts]


include: "rules/report.smk"


rule report:
    default_target: True
    input:
        expand("results/{table}.csv", table=[name for name, table in E.tables.items() if not table.on_request]),
        results(),
