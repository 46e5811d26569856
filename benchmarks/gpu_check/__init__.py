"""``make gpu-check``: what has never run without a GPU, checked and timed on one in eight minutes.

It needs no network and installs nothing. Stages run in turn, each within its time; a stage's
jobs run in processes of their own, so that a crash or a wait ends one of them. What is
done is on disk at every moment: see :mod:`gpu_check.journal`.
"""
