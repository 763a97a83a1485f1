# Needs: campaign.json, weights.json; provision is measured before, by its priority.
# Makes: raw/{breakpoints,checkpoint_cost,dispatch,concurrent,traced,zero_change}.json: what the seed's claims need beside.
# Steps: each rule starts its own server (or uses the config's `server` where it can), measures, and ends it. One at a time.


use rule steering as breakpoints with:
    output:
        f"{RESULTS}/raw/breakpoints.json",
    log:
        f"{RESULTS}/logs/breakpoints.log",
    priority: 49
    params:
        measurement="breakpoints",
        settings=part("breakpoints", "budget.host"),


use rule steering as checkpoint_cost with:
    output:
        f"{RESULTS}/raw/checkpoint_cost.json",
    log:
        f"{RESULTS}/logs/checkpoint_cost.log",
    priority: 48
    params:
        measurement="checkpoint_cost",
        settings=part("checkpoint_cost", "budget.host"),


use rule steering as dispatch with:
    output:
        f"{RESULTS}/raw/dispatch.json",
    log:
        f"{RESULTS}/logs/dispatch.log",
    priority: 47
    params:
        measurement="dispatch",
        settings=part(
            "dispatch",
            "resume.prompt_tokens",
            "oversubscription.break_at",
            "budget.host",
        ),


use rule steering as concurrent with:
    output:
        f"{RESULTS}/raw/concurrent.json",
    log:
        f"{RESULTS}/logs/concurrent.log",
    priority: 46
    params:
        measurement="concurrent",
        settings=part(
            "concurrent",
            "resume.prompt_tokens",
            "oversubscription.new_tokens",
            "budget.host",
        ),


use rule steering as traced with:
    output:
        f"{RESULTS}/raw/traced.json",
    log:
        f"{RESULTS}/logs/traced.log",
    priority: 45
    params:
        measurement="traced",
        settings=part(
            "resume.prompt_tokens",
            "oversubscription.break_at",
            "activation_steering.modification_factor",
            "budget.host",
        ),


use rule steering as zero_change with:
    output:
        f"{RESULTS}/raw/zero_change.json",
    log:
        f"{RESULTS}/logs/zero_change.log",
    priority: 44
    params:
        measurement="zero_change",
        script=sources.digest(zero_change.SCRIPT),
        settings=part(
            "resume.prompt_tokens", "oversubscription.new_tokens", "budget.host"
        ),
