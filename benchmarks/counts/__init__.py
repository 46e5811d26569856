"""What does not vary from run to run: instructions of the C++ kernels, Python calls, allocations.

``make counts`` compares them with the budgets in ``budgets.json``; no clock is read.
"""
