"""Several processes that train one model: each takes its rows of every minibatch.

``group`` is who they are, ``batch_shard`` which rows of a minibatch a rank has, ``losses`` what its
rows add to the minibatch's loss, ``engine`` the steps, whose shares ``kernel_steps`` computes in
C++ and ``loop_steps`` by the ordinary loop, and ``agreement`` what is compared before the first.
``gradients`` is the sum over the ranks, ``shared_memory`` the same on one machine, where the ranks
wait for each other at a ``barrier``. ``selection`` finds the largest latents of all ranks' rows,
``rows`` is for estimators, whose ranks have rows of their own, ``interrupts`` hears Ctrl-C on all
ranks, and ``world`` is how ``torchrun``'s processes begin and end together.
"""
