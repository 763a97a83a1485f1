# Needs: campaign.json, combined.json, claims.json, config/claims.yaml.
# Makes: exp3_osdi.log (what the seed searches), report/claims.html and report/environment.html (pages of the HTML report).
# Steps: the seed's log; the pages. `make report` then puts pages and figures into one file. Nothing is measured here.


report: "../report/workflow.rst"


rule seed_log:
    input:
        campaign=f"{RESULTS}/campaign.json",
        claims="config/claims.yaml",
        answers=f"{RESULTS}/claims.json",
    output:
        f"{RESULTS}/exp3_osdi.log",
    log:
        f"{RESULTS}/logs/seed_log.log",
    priority: 13
    conda:
        "../../envs/analysis.yaml"
    params:
        code=sources.code("evaluation.seed_log", "evaluation.answered"),
    shell:
        "exec python workflow/scripts/seed_log.py --campaign {input.campaign:q} --claims {input.claims:q}"
        " --answers {input.answers:q} --log {log:q} --out {output:q}"


rule pages:
    input:
        combined=f"{RESULTS}/combined.json",
        answers=f"{RESULTS}/claims.json",
    output:
        claims=report(
            f"{RESULTS}/report/claims.html",
            caption="../report/claims.rst",
            category="1. Claims",
            labels={"page": "claims"},
        ),
        environment=report(
            f"{RESULTS}/report/environment.html",
            caption="../report/environment.rst",
            category="3. Environment and time",
            labels={"page": "environment and time"},
        ),
    log:
        f"{RESULTS}/logs/pages.log",
    priority: 12
    conda:
        "../../envs/analysis.yaml"
    params:
        code=sources.code("evaluation.pages"),
        templates=sources.digest(*pages.TEMPLATES.glob("*.html")),
    shell:
        "exec python workflow/scripts/pages.py --combined {input.combined:q} --log {log:q}"
        " --out {output.claims:q} {output.environment:q}"
