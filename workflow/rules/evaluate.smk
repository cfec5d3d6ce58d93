# Every model on every benchmark at every step budget: answers on the GPU, scores on the CPU.


rule answers:
    """Answer a benchmark with a model at a step budget."""
    input:
        unpack(inputs("answers/{model}/{benchmark}/{budget}")),
    output:
        manifest("answers/{model}/{benchmark}/{budget}"),
    log:
        f"{LOGS}/answers/{{model}}/{{benchmark}}/{{budget}}.log",
    # On a cluster, what is missing of a model and a benchmark is one submission; elsewhere this says nothing.
    group:
        "evaluation_{model}_{benchmark}"
    conda:
        "../../environment.yml"
    threads: max(CORES, E.decoding_processes)
    resources:
        # One after another: the profile for Slurm allows one in a group.
        turn=1,
        # Not a parameter: more processes change the speed of decoding, and plan nothing again.
        gpu=E.decoding_processes if E.gpus else 0,
        runtime=lambda w, attempt: JOB_RESOURCES["answers"].minutes * attempt,
        mem_mb=lambda w, attempt: JOB_RESOURCES["answers"].memory_mb * attempt,
    params:
        experiment=E.name,
        recipe=recipe("answers/{model}/{benchmark}/{budget}"),
    shell:
        "t3d generate-answers --experiment {params.experiment} --benchmark {wildcards.benchmark} --budget {wildcards.budget}"
        " --model {input.model} --prompts {input.prompts} --out {output} 2>&1 | tee {log}"


rule score:
    """Judge recorded answers; no model, no GPU."""
    input:
        unpack(inputs("scores/{model}/{benchmark}/{budget}")),
    output:
        manifest("scores/{model}/{benchmark}/{budget}"),
    log:
        f"{LOGS}/scores/{{model}}/{{benchmark}}/{{budget}}.log",
    group:
        "evaluation_{model}_{benchmark}"
    conda:
        "../../environment.yml"
    resources:
        turn=1,
        runtime=lambda w, attempt: 15 * attempt,
        mem_mb=lambda w, attempt: 8000 * attempt,
    params:
        experiment=E.name,
        recipe=recipe("scores/{model}/{benchmark}/{budget}"),
    shell:
        "t3d score --experiment {params.experiment} --answers {input.answers} --prompts {input.prompts} --out {output}"
        " 2>&1 | tee {log}"


rule factorisation:
    """Score the teacher's rollouts with a model, state by state, for the factorisation error."""
    input:
        unpack(inputs("factorisation/{model}/{name}")),
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
        recipe=recipe("factorisation/{model}/{name}"),
    shell:
        "t3d factorisation --experiment {params.experiment} --name {wildcards.name} --model {input.model}"
        " --shards {input.shards} --out {output} 2>&1 | tee {log}"
