"""Checks whether several machines can compute one model together, before it is loaded on any of them.

hostfile     the file that names the machines, as `mlx.launch` reads it
reach        runs a program on one of them, or on all, for a limited time
interfaces   which network interface an address is on
worker       what runs there: says what that machine is, measures a gather, computes the self-test
check        the steps, and what they have found
"""
