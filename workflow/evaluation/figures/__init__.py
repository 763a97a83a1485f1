"""The figures. Each draws `combined.json` and nothing else: PDF, PNG, and a CSV of what is plotted."""
