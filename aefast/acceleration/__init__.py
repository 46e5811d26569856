"""Plain PyTorch models on this package's kernels: recognized, served, reported and restored.

``purity`` says whether a forward may be replaced by its graph, ``tracing`` makes the graph,
``recognition`` finds in it what the kernels serve, ``stack``, ``topk`` and ``draws`` are what is
put there, ``graph`` is the graph with them, ``serving`` binds the result to the model, ``table``
says what was done.
"""
