# For workflows that cannot make what is missing: `material` of common.smk, and how to get what is not here.

from t3d.provenance import publish, verify


def material(product):
    """Manifests of what a table or figure is made from; nothing here can make one that is missing."""
    artefacts = lineage.inputs_of_target(E, product, here=True)
    missing = verify.missing_of(E, product, here=True)
    if missing:
        command = publish.remedy(E, missing)
        remedy = f"Fetch them: {command}" if command else "Only the Snakefile makes them."
        files = [str(path) for path in missing.values()]
        raise WorkflowError(
            f"{product.caption!r} cannot be made here: it shows {len(artefacts)} artefacts, and of {len(files)} a file is "
            f"missing ({', '.join(files[:3])}{', ...' if files[3:] else ''}). {remedy} Tables and figures that need none of "
            "them can be asked for by name."
        )
    check_unseen()
    return [manifest(artefact) for artefact in artefacts]
