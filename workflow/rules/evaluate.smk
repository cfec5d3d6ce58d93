# Every model on every benchmark at every step budget: answers on the GPU, scores on the CPU.


rule answers:
    input:
        model=lambda w: inputs(f"answers/{w.model}/{w.benchmark}/{w.budget}")[0],
        prompts=lambda w: inputs(f"answers/{w.model}/{w.benchmark}/{w.budget}")[1],
    output:
        manifest("answers/{model}/{benchmark}/{budget}"),
    log:
        f"{LOGS}/answers/{{model}}/{{benchmark}}/{{budget}}.log",
    conda:
        "../../environment.yml"
    threads: max(CORES, E.decoding_processes)
    resources:
        # Not a parameter: more processes change the speed of decoding, and plan nothing again.
        gpu=E.decoding_processes if E.gpus else 0,
        runtime=lambda w, attempt: JOB_RESOURCES["answers"].minutes * attempt,
        mem_mb=lambda w, attempt: JOB_RESOURCES["answers"].memory_mb * attempt,
    params:
        experiment=E.name,
        recipe=lambda w: recipe(f"answers/{w.model}/{w.benchmark}/{w.budget}"),
    shell:
        "t3d generate-answers --experiment {params.experiment} --benchmark {wildcards.benchmark} --budget {wildcards.budget}"
        " --model {input.model} --prompts {input.prompts} --out {output} 2>&1 | tee {log}"


rule score:
    input:
        answers=manifest("answers/{model}/{benchmark}/{budget}"),
        prompts=lambda w: inputs(f"scores/{w.model}/{w.benchmark}/{w.budget}")[1],
    output:
        manifest("scores/{model}/{benchmark}/{budget}"),
    log:
        f"{LOGS}/scores/{{model}}/{{benchmark}}/{{budget}}.log",
    conda:
        "../../environment.yml"
    params:
        experiment=E.name,
        recipe=lambda w: recipe(f"scores/{w.model}/{w.benchmark}/{w.budget}"),
    shell:
        "t3d score --experiment {params.experiment} --answers {input.answers} --prompts {input.prompts} --out {output}"
        " 2>&1 | tee {log}"


# Not a score: what a model thinks of the teacher's rollouts, state by state, for the factorisation error.
rule factorisation:
    input:
        model=lambda w: inputs(f"factorisation/{w.model}/{w.name}")[0],
        shards=lambda w: inputs(f"factorisation/{w.model}/{w.name}")[1:],
    output:
        manifest("factorisation/{model}/{name}"),
    log:
        f"{LOGS}/factorisation/{{model}}/{{name}}.log",
    conda:
        "../../environment.yml"
    threads: CORES
    resources:
        gpu=E.gpus,
        runtime=lambda w, attempt: JOB_RESOURCES["factorisation"].minutes * attempt,
        mem_mb=lambda w, attempt: JOB_RESOURCES["factorisation"].memory_mb * attempt,
    params:
        experiment=E.name,
        recipe=lambda w: recipe(f"factorisation/{w.model}/{w.name}"),
    shell:
        "t3d factorisation --experiment {params.experiment} --name {wildcards.name} --model {input.model} --out {output}"
        " {input.shards} 2>&1 | tee {log}"
