# Needs: campaign.json, weights.json; for vLLM its own environment (make vllm).
# Makes: raw/peer_{system}.json, raw/workload.json.
# Steps: each system alone (tuning, going on, editing, capability probes) -> all of them in turn with the many sessions, or
# put together from what each did alone, where the device holds one of them at a time.


rule peer:
    input:
        campaign=f"{RESULTS}/campaign.json",
        weights=f"{RESULTS}/weights.json",
    output:
        f"{RESULTS}/raw/peer_{{system}}.json",
    log:
        f"{RESULTS}/logs/peer_{{system}}.log",
    priority: 54
    conda:
        "../../envs/measure.yaml"
    threads: workflow.cores
    params:
        measurement="peer_{system}",
        texts=TEXTS,
        settings=lambda wildcards: part(
            *peers.used_alone(wildcards.system, SETTINGS.peers.together),
            "oversubscription",
            "budget",
        ),
        # an environment that was made since is a reason to run again
        missing=lambda wildcards: peers.missing(wildcards.system, SETTINGS.peers),
    shell:
        MEASURE


rule workload:
    input:
        campaign=f"{RESULTS}/campaign.json",
        weights=f"{RESULTS}/weights.json",
        peers=[f"{RESULTS}/raw/peer_{system}.json" for system in peers.PEERS],
    output:
        f"{RESULTS}/raw/workload.json",
    log:
        f"{RESULTS}/logs/workload.log",
    priority: 52  # nothing of the rest is needed by another, and this takes longest
    conda:
        "../../envs/measure.yaml"
    threads: workflow.cores
    params:
        measurement="workload",
        texts=TEXTS,
        settings=part(
            *peers.used_by_workload(SETTINGS.peers.together),
            "oversubscription",
            "budget",
        ),
    shell:
        MEASURE
