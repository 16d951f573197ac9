"""Relax as regions: canonical form, fingerprints, and the law of each stage."""
