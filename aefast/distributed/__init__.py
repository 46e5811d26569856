"""Several processes that train one model: each takes its rows of every minibatch.

``group`` is who they are, ``batch_shard`` which rows of a minibatch a rank has, ``losses`` what its
rows add to the minibatch's loss, ``gradients`` the sum over the ranks, ``engine`` the steps,
``agreement`` what is compared before the first one, and ``world`` how ``torchrun``'s processes
begin and end together.
"""
