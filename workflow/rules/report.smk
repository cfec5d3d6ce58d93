# Tables and figures, from scores alone.


def scores_of(product):
    return [
        manifest(f"scores/{model}/{benchmark}/{budget}")
        for model in E.models_of(product)
        for benchmark in product.benchmarks
        for budget in product.budgets
    ]


def shown(product):
    """What decides a table's or figure's content besides its scores."""
    labels = [E.teachers[product.teacher].label, *(E.students[key].label for key in product.students)]
    return recipes.canonical([product.model_dump(mode="json"), labels])


rule table:
    input:
        scores=lambda w: scores_of(E.tables[w.name]),
    output:
        csv=f"results/{E.name}/{{name}}.csv",
        markdown=f"results/{E.name}/{{name}}.md",
        latex=f"results/{E.name}/{{name}}.tex",
    log:
        f"{LOGS}/tables/{{name}}.log",
    params:
        shown=lambda w: shown(E.tables[w.name]),
    localrule: True
    shell:
        "t3d table --experiment {E.name} --name {wildcards.name} --out {output.csv} {input.scores} 2>&1 | tee {log}"


rule figure:
    input:
        scores=lambda w: scores_of(E.figures[w.name]),
    output:
        pdf=f"results/{E.name}/figures/{{name}}.pdf",
        png=f"results/{E.name}/figures/{{name}}.png",
    log:
        f"{LOGS}/figures/{{name}}.log",
    params:
        shown=lambda w: shown(E.figures[w.name]),
    localrule: True
    shell:
        "t3d figure --experiment {E.name} --name {wildcards.name} --out {output.pdf} {input.scores} 2>&1 | tee {log}"


# The chosen experiment's table under the name everybody asks for.
rule chosen_table:
    input:
        f"results/{E.name}/{{name}}.csv",
    output:
        "results/{name}.csv",
    log:
        f"{LOGS}/tables/{{name}}.copy.log",
    localrule: True
    shell:
        "cp {input} {output} 2> {log}"
