# Tables from scores, figures from what earlier stages recorded; nothing is computed by a model here.


rule table:
    """Build a table from scores: CSV, Markdown, LaTeX."""
    input:
        reported="params/reported.csv",
        scores=lambda w: material(E.tables[w.name]),
    output:
        csv=report(
            f"results/{E.name}/{{name}}.csv",
            caption="../captions/table.rst",
            category="Tables",
            labels=lambda w: {"table": w.name, "shows": E.tables[w.name].caption},
        ),
        markdown=f"results/{E.name}/{{name}}.md",
        latex=f"results/{E.name}/{{name}}.tex",
    log:
        f"{LOGS}/tables/{{name}}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        experiment=E.name,
        shown=lambda w: recipes.shown(E, E.tables[w.name]),
    shell:
        "t3d table --experiment {params.experiment} --name {wildcards.name} --scores {input.scores}"
        " --out {output.csv} 2>&1 | tee {log}"


rule figure:
    """Draw a figure from what earlier stages recorded."""
    input:
        material=lambda w: material(E.figures[w.name]),
    output:
        pdf=f"results/{E.name}/figures/{{name}}.pdf",
        png=report(
            f"results/{E.name}/figures/{{name}}.png",
            caption="../captions/figure.rst",
            category="Figures",
            labels=lambda w: {"figure": w.name, "shows": E.figures[w.name].caption},
        ),
    log:
        f"{LOGS}/figures/{{name}}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        experiment=E.name,
        shown=lambda w: recipes.shown(E, E.figures[w.name]),
    shell:
        "t3d figure --experiment {params.experiment} --name {wildcards.name} --material {input.material}"
        " --out {output.pdf} 2>&1 | tee {log}"


rule chosen_table:
    """Copy a table of the chosen experiment to the name everybody asks for.

    It asks for the scores as well: a fresh clone holds tables without scores, which Snakemake would take for finished.
    """
    input:
        table=f"results/{E.name}/{{name}}.csv",
        scores=lambda w: material(E.tables[w.name]),
    output:
        "results/{name}.csv",
    log:
        f"{LOGS}/tables/{{name}}.copy.log",
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "cp {input.table} {output} 2> {log}"


rule chosen_figure:
    """Copy a figure of the chosen experiment to the name everybody asks for."""
    input:
        pdf=f"results/{E.name}/figures/{{name}}.pdf",
        png=f"results/{E.name}/figures/{{name}}.png",
        material=lambda w: material(E.figures[w.name]),
    output:
        pdf="results/figures/{name}.pdf",
        png="results/figures/{name}.png",
    log:
        f"{LOGS}/figures/{{name}}.copy.log",
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "cp {input.pdf} {output.pdf} 2> {log} && cp {input.png} {output.png} 2>> {log}"


rule metrics:
    """Write the accuracies of the default tables in DVC's form."""
    input:
        [f"results/{E.name}/{name}.csv" for name, table in E.tables.items() if not table.on_request],
    output:
        METRICS,
    log:
        f"{LOGS}/metrics.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        experiment=E.name,
    shell:
        "t3d metrics --experiment {params.experiment} --out {output} 2>&1 | tee {log}"


rule page:
    """Write the report, one offline page.

    It shows receipts, answers and products on request where they are here, and makes nothing for that: those are no
    inputs, and what was made on request counts by its content.
    """
    input:
        results(),
    output:
        "results/report.html",
    log:
        f"{LOGS}/report.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        experiment=E.name,
        shown=lambda w: on_the_page(),
    shell:
        "t3d report --experiment {params.experiment} --out {output} 2>&1 | tee {log}"
