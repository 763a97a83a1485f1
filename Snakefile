# Djinn's evaluation: from a bare machine to Figures 6 and 7. `snakemake --cores 1` makes everything;
# the name of a rule (figure7, claims, ...) makes that and what it needs; --forcerun NAME makes it again.


include: "workflow/rules/common.smk"


rule all:
    input:
        RAW,
        multiext(FIGURE6, ".pdf", ".png", ".csv"),
        multiext(FIGURE7, ".pdf", ".png", ".csv"),
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
# peer -> workload: every system of the comparison, alone and then all in turn
include: "workflow/rules/peers.smk"
# combine -> figure6 -> figure7 -> claims -> peers -> mlflow
include: "workflow/rules/analysis.smk"
# seed_log, pages: what a reader searches or opens
include: "workflow/rules/report.smk"
