"""IS IT SANE: one suite per table, as functions; run.py validates a stage."""
