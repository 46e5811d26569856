"""Training: :func:`aefast.fit`, and the runs of ``aefast train``, which resume to the same bits."""
