# Every model on every benchmark at every step budget: answers on the GPU, scores on the CPU.


def model_manifest(wildcards):
    kind = "teachers" if wildcards.model in E.teachers else "students"
    return manifest(f"{kind}/{wildcards.model}")


def questions(wildcards):
    return manifest(f"prompts/{E.benchmarks[wildcards.benchmark].prompts}")


rule answers:
    input:
        model=model_manifest,
        prompts=questions,
    output:
        manifest("answers/{model}/{benchmark}/{budget}"),
    log:
        f"{LOGS}/answers/{{model}}/{{benchmark}}/{{budget}}.log",
    params:
        recipe=lambda w: recipe(f"answers/{w.model}/{w.benchmark}/{w.budget}"),
    threads: CORES
    resources:
        gpu=E.gpus,
    shell:
        "t3d generate-answers --experiment {E.name} --benchmark {wildcards.benchmark} --budget {wildcards.budget}"
        " --model {input.model} --prompts {input.prompts} --out {output} 2>&1 | tee {log}"


rule score:
    input:
        answers=manifest("answers/{model}/{benchmark}/{budget}"),
        prompts=questions,
    output:
        manifest("scores/{model}/{benchmark}/{budget}"),
    log:
        f"{LOGS}/scores/{{model}}/{{benchmark}}/{{budget}}.log",
    params:
        recipe=lambda w: recipe(f"scores/{w.model}/{w.benchmark}/{w.budget}"),
    shell:
        "t3d score --experiment {E.name} --answers {input.answers} --prompts {input.prompts} --out {output}"
        " 2>&1 | tee {log}"
