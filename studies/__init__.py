"""The question asked, and its answer: settings, ledger, scores, report; and the studies that are shipped, as TOML."""
