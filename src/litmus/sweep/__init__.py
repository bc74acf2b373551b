"""Many trainings as one experiment: what a learning curve, a decomposition and a claim are made of.

A cell is a config; it is trained once, in a process of its own, and then measured. Its run is named by a hash of what
decides its numbers, so that whoever asks for the same training again, in the same command or in another, finds it.
"""
