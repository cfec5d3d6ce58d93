# The untouched model, and the questions in its own tokens.


rule teacher:
    output:
        manifest("teachers/{name}"),
    log:
        f"{LOGS}/teachers/{{name}}.log",
    conda:
        "../../environment.yml"
    threads: CORES
    resources:
        gpu=lambda w: E.gpus if E.teachers[w.name].source == "pretrain" else 0,
    params:
        experiment=E.name,
        recipe=lambda w: recipe(f"teachers/{w.name}"),
    shell:
        "t3d teacher --experiment {params.experiment} --name {wildcards.name} --out {output} 2>&1 | tee {log}"


rule prompts:
    input:
        teacher=lambda w: inputs(f"prompts/{w.name}"),
    output:
        manifest("prompts/{name}"),
    log:
        f"{LOGS}/prompts/{{name}}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        experiment=E.name,
        recipe=lambda w: recipe(f"prompts/{w.name}"),
    shell:
        "t3d prompts --experiment {params.experiment} --name {wildcards.name} --teacher {input.teacher} --out {output}"
        " 2>&1 | tee {log}"
