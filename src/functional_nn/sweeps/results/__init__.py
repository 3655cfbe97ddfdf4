"""The results of a sweep: tables, statistics and ensembles."""
