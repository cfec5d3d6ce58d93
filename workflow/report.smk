"""Tables and figures alone, from scores that are there: what a reviewer runs. No model, no GPU.

t3d pull scores
snakemake -s workflow/report.smk --cores all --forceall
"""


include: "rules/common.smk"
include: "rules/present.smk"
include: "rules/report.smk"


rule report:
    """Make the default tables and figures that can be made from what is here."""
    default_target: True
    input:
        results(),
        METRICS,
