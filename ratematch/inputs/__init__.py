"""Files a person names: sweep files, cluster profiles, tables of rates, and the models and GPUs that are known."""
