"""One model on several machines. The first one talks; the others compute what it tells them.

launched   finds out whether this process is one of several, and which
channel    the connections over which the first machine tells the others what to do, and all notice who is gone
leader     the model of the first machine: each call is told to the others before it is computed
follower   the others: compute what they are told, until the first one ends

MLX moves the numbers (`mx.distributed`: over TCP, or Thunderbolt); `model.sharding` joins them. `mlx.launch` starts the
processes.
"""
