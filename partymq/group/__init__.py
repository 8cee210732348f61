"""What a group is and who owns what: key rule, partitions, assignment, coordinator.

Pure: no IO, no clock, no randomness. Events and the time go in, state and effects come out.
"""
