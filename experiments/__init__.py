"""Runs that take minutes or hours: what they found is kept, and the book reads it from there.

Each module is one experiment. It has

- ``CASES``, a list of settings, and ``SEEDS``;
- ``run(case, seed)``, which returns what was measured, as a dictionary of numbers;
- ``QUICK``, those of the cases that a test runs again, each with one seed;
- ``CLAIMS``, where others have published something about it: what, and what a record must show for
  it to hold, which is written down before the runs (see `experiments.claims`).

`experiments.records` keeps what they returned, with the digest of the module's source, so that a
record that belongs to another source is seen to. ``make experiments`` runs them all afresh;
`experiments.data` and `experiments.training` hold what several of them need.
"""
