# Djinn's evaluation: from a bare machine to Figures 6 and 7 and the claims. `snakemake --cores 1` makes everything;
# the name of a rule (figure7, claims, ...) makes that and what it needs; --forcerun NAME makes it again.


include: "workflow/rules/common.smk"


rule all:
    input:
        RAW,
        [
            multiext(f"{RESULTS}/figures/{name}", ".pdf", ".png", ".csv")
            for name in FIGURES.values()
        ],
        multiext(f"{RESULTS}/claims", ".json", ".md"),
        f"{RESULTS}/peers.md",
        f"{RESULTS}/exp3_osdi.log",
        multiext(f"{RESULTS}/report/", "claims.html", "environment.html"),
        f"{RESULTS}/mlflow.json",


# campaign, weights -> provision: what this machine is and can do
include: "workflow/rules/provision.smk"
# eager -> recompute, manual_offload: what people do today
include: "workflow/rules/baselines.smk"
# djinn_resume, oversubscription, steering: what Djinn does
include: "workflow/rules/djinn.smk"
# breakpoints, checkpoint_cost, dispatch, concurrent, traced, zero_change: the seed's other statements
include: "workflow/rules/experiments.smk"
# peer -> workload: every system of the comparison, alone and then all in turn
include: "workflow/rules/peers.smk"
# combine -> figures 6, 7, S1 to S3 -> claims -> peers -> mlflow
include: "workflow/rules/analysis.smk"
# seed_log, pages: what a reader searches or opens
include: "workflow/rules/report.smk"
