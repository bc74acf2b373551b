"""The course as experiments: each claim is a file in ``configs/claims`` and a class here.

A class says which trainings it needs, reads a table off them, judges the table and draws it. What judges and what draws
are functions of the table alone, and are tested on made numbers; that a noisy training lands is asserted nowhere.
"""
