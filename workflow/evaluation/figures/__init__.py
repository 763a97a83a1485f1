"""The figures. Each draws `combined.json` and nothing else: PDF, PNG, and a CSV of what is plotted."""

from evaluation.combine import RESUME_RULES

# rule → the figure that shows what it measured
FIGURE_OF = dict.fromkeys(RESUME_RULES, "figure7") | {"oversubscription": "figure6", "eager": "figure6"}
